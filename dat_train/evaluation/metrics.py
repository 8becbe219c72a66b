"""Accuracy and loss over a loader: every image once, the same numbers for any number of processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dat_train.errors import UserError
from dat_train.models.modes import evaluating

if TYPE_CHECKING:
    from dat_train.data.loader import Batch

UNREADABLE = -1  # the label of an image that could not be read
UNDECIDED = -1  # the prediction where a logit is not a number
PARTS = ("indices", "labels", "predicted", "in_top5", "losses", "confidence")  # of one sample's result


@dataclass(frozen=True)
class Evaluation:
    """What a model made of a set of images; the same in every process.

    Attributes:
        top1, top5: percent of `count`; top5 counts the best min(5, classes).
        loss: mean cross-entropy, of unsmoothed labels.
        count: images that could be read.
        unreadable: paths of those that could not, sorted; in no other number here.
        indices: (count,) int64, ascending, places in the set; the arrays below are in its order.
        labels: (count,) int64.
        predicted: (count,) int64; the lowest class where several share the highest logit, -1 where one is NaN.
        confidence: (count,) float64, the softmax of the predicted class; NaN where a logit is.
    """

    top1: float
    top5: float
    loss: float
    count: int
    unreadable: list[str]
    indices: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray


def evaluate(
    model: nn.Module,
    loader: Iterable[Batch],
    *,
    device: torch.device,
    dtype: torch.dtype,
    num_classes: int,
    channels_last: bool = False,
    subset: Sequence[int] | None = None,
    right: Tensor | None = None,
) -> Evaluation:
    """Evaluate `model` on all processes' batches together; each process brings its share of the set.

    Nothing waits for the device, and no process for another, before the last batch: shares may differ in length and be
    empty. Sums are taken over the gathered samples in the set's order, so they do not depend on who had which sample.

    Args:
        model: on `device`; may be compiled or wrapped for DDP. Its modules' training modes are put back afterwards.
        loader: batches with images (B, 3, H, W), labels (B,), indices (B,) in the set, and unreadable paths.
        dtype: bfloat16 and float16 are autocast; otherwise the images', which must be the weights'.
        num_classes: of the model's logits.
        subset: classes that occur; the model chooses among them alone. None: all.
        right: (images of the set, most) class numbers that are right for each image, -1 filling up; its label is then
            that one of them which the model finds likeliest, so that any of them counts. None: the labels alone.

    Raises:
        UserError: no image at all could be read; labels or logits do not fit `num_classes`.
    """
    results, unreadable = [], []
    forward = _without_ddp(model)
    # on the device once: a copy from ordinary memory waits for what the device still has to do
    others = None if subset is None else _others(num_classes, subset).to(device)
    right = None if right is None else right.to(device)
    with evaluating(model), torch.inference_mode():
        for batch in loader:
            _check_labels(batch.labels, num_classes)
            unreadable += batch.unreadable
            images = batch.images.to(device, _input_dtype(dtype), non_blocking=True)  # (B, 3, H, W)
            if channels_last:
                images = images.to(memory_format=torch.channels_last)
            with _autocast(device, dtype):
                logits = forward(images)  # (B, classes)
            if logits.shape[1] != num_classes:
                raise UserError(f"the model has {logits.shape[1]} classes where {num_classes} are expected")
            if others is not None:
                logits = logits.masked_fill(others & ~logits.isnan(), -torch.inf)
            labels = batch.labels.to(device, non_blocking=True)
            if right is not None:
                labels = _likeliest(logits, right[batch.indices.to(device, non_blocking=True)], labels)
            results.append((batch.indices, labels, *_judge(logits, labels)))
    return _summarize(*_gather(_to_host(results), unreadable))


def _without_ddp(model: nn.Module) -> nn.Module:
    """`model` without DDP around it, whose forward may wait for the other processes."""
    inner = getattr(model, "_orig_mod", model)  # of a compiled model
    return inner.module if isinstance(inner, DistributedDataParallel) else model


def _others(num_classes: int, subset: Sequence[int]) -> Tensor:
    """(num_classes,) True for the classes that are not in `subset`."""
    others = torch.ones(num_classes, dtype=torch.bool)
    others[list(subset)] = False
    return others


def _likeliest(logits: Tensor, right: Tensor, labels: Tensor) -> Tensor:
    """Of each image's right classes (B, most), -1 filling up, the one of the highest logit; -1 stays unreadable."""
    scores = logits.gather(1, right.clamp(min=0)).masked_fill(right < 0, -torch.inf)
    chosen = right.gather(1, scores.argmax(1, keepdim=True))[:, 0]
    return torch.where(labels == UNREADABLE, labels, chosen)


def _judge(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each sample's prediction, whether the label is among the five highest, loss and confidence; on the device.

    Ties are decided by counting, since topk's choice among equals is nobody's promise: of equal logits the lower class
    stands before the higher.

    Args:
        logits: (B, classes); labels: (B,), -1 where there is none.
    """
    logits = logits.to(torch.float32 if logits.device.type == "mps" else torch.float64)
    labels = labels.clamp(min=0)[:, None]  # unreadable ones are taken out at the end, on the host
    classes = torch.arange(logits.shape[1], device=logits.device)
    of_label = logits.gather(1, labels)
    before = (logits > of_label) | ((logits == of_label) & (classes < labels))
    sound = ~logits.isnan().any(1)
    log_probabilities = F.log_softmax(logits, dim=1)
    predicted = torch.where(sound, logits.argmax(1), UNDECIDED)  # argmax: the first of equals
    in_top5 = sound & (before.sum(1) < 5)
    return predicted, in_top5, -log_probabilities.gather(1, labels)[:, 0], log_probabilities.amax(1).exp()


def _to_host(results: list[tuple[Tensor, ...]]) -> list[np.ndarray]:
    """This process' results, one array for each of PARTS; waits for the device."""
    if not results:
        return [np.empty(0) for _ in PARTS]
    return [torch.cat(part).cpu().numpy() for part in zip(*results, strict=True)]


def _gather(parts: list[np.ndarray], unreadable: list[str]) -> tuple[list[np.ndarray], list[str]]:
    """All processes' results in the order of indices, and all unreadable paths."""
    shares = [(parts, unreadable)]
    if dist.is_available() and dist.is_initialized():
        shares = [None] * dist.get_world_size()
        dist.all_gather_object(shares, (parts, unreadable))
    filled = [share for share, _ in shares if len(share[0])] or [parts]  # an empty array has no dtype to mix in
    joined = [np.concatenate(part) for part in zip(*filled, strict=True)]
    order = np.argsort(joined[0], kind="stable")
    return [part[order] for part in joined], sorted(path for _, paths in shares for path in paths)


def _summarize(parts: list[np.ndarray], unreadable: list[str]) -> Evaluation:
    found = dict(zip(PARTS, parts, strict=True))
    if (found["indices"][1:] == found["indices"][:-1]).any():
        raise RuntimeError("an image was evaluated twice: the processes' loaders overlap")
    readable = found["labels"] != UNREADABLE
    found = {name: part[readable] for name, part in found.items()}
    count = len(found["indices"])
    if not count:
        raise UserError(
            f"none of the {len(unreadable)} validation images can be read; look at {unreadable[0]}"
            if unreadable
            else "there is no validation image; look at data.root"
        )
    return Evaluation(
        top1=100 * int((found["predicted"] == found["labels"]).sum()) / count,
        top5=100 * int(found["in_top5"].sum()) / count,
        loss=float(found["losses"].astype(np.float64).sum()) / count,
        count=count,
        unreadable=unreadable,
        indices=found["indices"],
        labels=found["labels"],
        predicted=found["predicted"],
        confidence=found["confidence"].astype(np.float64),
    )


def _check_labels(labels: Tensor, num_classes: int) -> None:
    """A label out of range would end a CUDA device's life with an assertion; the labels are on the host here."""
    if len(labels) and int(labels.max()) >= num_classes:
        raise UserError(f"the images have a class number {int(labels.max())}, the model knows 0 to {num_classes - 1}")


def _input_dtype(dtype: torch.dtype) -> torch.dtype:
    """Under autocast, inputs and weights stay float32."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    return torch.autocast(device.type, dtype) if dtype in (torch.bfloat16, torch.float16) else nullcontext()
