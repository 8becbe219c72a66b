"""Adaptation of weights to a model: bias tables of another size, stems with other channels, other classes."""

import contextlib
import math

import torch
import torch.nn.functional as F
from timm.models import adapt_input_conv
from torch import Tensor, nn

from dat_train.models.deformable import FixedBias, resize_fixed_table


def fit_state(
    model: nn.Module, state: dict[str, Tensor], classifier: tuple[str, ...], stem: tuple[str, ...]
) -> tuple[dict[str, Tensor], list[str]]:
    """Reshape weights for `model`; weights without a rule are unchanged.

    Bias tables are resized bicubically, each head separately; a stem for other channels is adapted as in timm; a
    classifier for another number of classes is left out, also if the model has none.

    Args:
        state: weights by the model's names.
        classifier: names of the classifier's modules.
        stem: names of the first convolutions.

    Returns:
        The weights, and the changes in words.
    """
    own = model.state_dict()
    fitted, notes = {}, {}
    for name, value in state.items():
        module = name.rpartition(".")[0]
        if module in classifier and (name not in own or own[name].shape != value.shape):
            if name in own and name.endswith("weight"):
                classes = f"the file's classifier has {len(value)} classes, the model {len(own[name])}"
                notes[f"{classes}: a newly initialized one stays"] = None
            continue
        if name not in own or own[name].shape == value.shape:
            fitted[name] = value
            continue
        wanted = own[name].shape
        if module in stem and value.shape[0] == wanted[0] and value.shape[2:] == wanted[2:]:
            with contextlib.suppress(NotImplementedError):  # from one channel to other numbers than three
                fitted[name] = adapt_input_conv(wanted[1], value)
                notes[f"adapted the stem from {value.shape[1]} to {wanted[1]} channels"] = None
                continue
        resized = _resize_table(model, name, value, wanted)
        if resized is not None:
            table = name.rpartition(".")[2]
            notes[f"resized {table} {tuple(value.shape)} -> {tuple(wanted)} bicubically"] = None
        fitted[name] = value if resized is None else resized
    return fitted, list(notes)


def _resize_table(model: nn.Module, name: str, value: Tensor, wanted: torch.Size) -> Tensor | None:
    """A bias table for another window, kernel or resolution; None if `name` is not a table or the heads differ."""
    owner = model.get_submodule(name.rpartition(".")[0])
    if name.endswith("relative_position_bias_table") and value.shape[1:] == wanted[1:]:  # ((2w-1)^2, heads)
        old, new = _side(value.shape[0]), _side(wanted[0])
        if old is None or new is None:  # windows that are not square, or with further entries, as in BEiT
            return None
        pictures = value.T.reshape(1, -1, old, old).float()
        resized = F.interpolate(pictures, size=(new, new), mode="bicubic", align_corners=False)
        return resized.reshape(-1, new * new).T.to(value.dtype)
    if isinstance(owner, FixedBias) and len(value) == wanted[0]:  # (heads, H*W, Hk*Wk) of square maps
        old, old_keys = map(_side, value.shape[1:])
        if old is None or old_keys is None:
            return None
        return resize_fixed_table(value, (old, old, old_keys, old_keys), (*owner.size, *owner.key_size))
    if name.endswith((".bias.table", ".rpb")) and value.ndim == 3 and len(value) == wanted[0]:  # (heads, 2H-1, 2W-1)
        resized = F.interpolate(value[None].float(), size=tuple(wanted[1:]), mode="bicubic", align_corners=False)
        return resized[0].to(value.dtype)
    return None


def _side(number: int) -> int | None:
    """Side of a square of `number` cells; None if it is not one."""
    side = math.isqrt(number)
    return side if side * side == number else None
