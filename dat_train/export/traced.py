"""The model as one graph with a dynamic batch (torch.export): what .pt2 files hold and ONNX is made of."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.attention import SDPBackend, sdpa_kernel

from dat_train.errors import UserError

TOLERANCE = 1e-4  # largest difference of a logit from PyTorch's
BATCHES = (1, 2, 5)  # that are compared


def trace(model: nn.Module, image_size: tuple[int, int]) -> ExportedProgram:
    """The graph of `model` in evaluation mode, (batch, 3, H, W) -> logits, for any batch from 1 on."""
    # with the plain formula's strides: those of a fused attention kernel would be written into the graph
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), quiet():
        batch = {0: Dim("batch", min=1)}
        return torch.export.export(model.eval(), (torch.zeros(2, 3, *image_size),), dynamic_shapes=(batch,))


def write_program(model: nn.Module, path: Path, image_size: tuple[int, int], notes: dict[str, str]) -> float:
    """Write the graph to `path` (.pt2), read it back, and compare it with `model`.

    Args:
        notes: texts to put into the file, by name; torch.export.load(path, extra_files={name: ""}) gives them back.

    Returns:
        the largest difference of a logit.

    Raises:
        UserError: it is more than TOLERANCE; nothing is written then.
    """
    beside = path.with_name(f".new.{path.name}")  # torch looks at the suffix
    try:
        with quiet():
            torch.export.save(trace(model, image_size), beside, extra_files=notes)
        difference = compare(ProgramModel(beside), model, image_size, path)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return difference


class ProgramModel(nn.Module):
    """The graph in a .pt2 file as a module. (B, 3, H, W) -> (B, classes)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        with quiet():
            # not a submodule: a traced graph refuses train() and eval(), being in evaluation for good
            self.run = torch.export.load(path).module().forward

    def forward(self, images: Tensor) -> Tensor:
        return self.run(images)


def compare(run: Callable[[Tensor], Tensor], model: nn.Module, image_size: tuple[int, int], path: Path) -> float:
    """The largest difference between a logit of `run` and of `model`, over noise in batches of several sizes.

    Raises:
        UserError: more than TOLERANCE.
    """
    generator = torch.Generator().manual_seed(0)
    differences = []
    for batch in BATCHES:
        images = torch.randn(batch, 3, *image_size, generator=generator)
        with torch.inference_mode():
            differences.append((run(images) - model(images)).abs().max())
    difference = float(torch.stack(differences).max())  # NaN where one is
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path} would give logits that differ by {difference:.1e} from PyTorch's, more than {TOLERANCE:g}; "
            "nothing was written; try another format=... or version of torch"
        )
    return difference


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters print, warn and log about their own insides."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
