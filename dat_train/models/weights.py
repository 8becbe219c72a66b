"""Reading weights: this project's checkpoints, safetensors, timm's files and the released checkpoints.

Nothing in a file is executed: pickles are read with torch's `weights_only`, and a released checkpoint's pickled `yacs`
configuration becomes an inert dictionary.
"""

import json
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from dat_train.errors import UserError
from dat_train.models.hub import weights_file
from dat_train.models.position_bias import FixedBias, resize_fixed_table
from dat_train.models.published import is_published, rename_published

# The class of the released checkpoints' pickled `config`; it comes back as a plain ordered dictionary.
_INERT = [(OrderedDict, "yacs.config.CfgNode")]


@dataclass
class LoadReport:
    """What `load_weights` read and did; `str()` gives readable lines."""

    path: Path
    source: str
    notes: list[str] = field(default_factory=list)
    classes: int | None = None  # of the file's classifier; None: it has none

    def __str__(self) -> str:
        return "\n".join([f"weights: {self.path} ({self.source})", *(f"  {note}" for note in self.notes)])


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint or weights file as plain data and CPU tensors; executes nothing.

    Args:
        path: a file, a folder as timm saves models and dat-export writes them, or timm's local-dir:FOLDER or
            hf-hub:OWNER/NAME (see `weights_file`).

    Returns:
        The dictionary in the file; for safetensors {"model": tensors}, with timm's config.json beside it also
        {"timm": what it says, "classes": its label names, if any}.

    Raises:
        UserError: no such file, not a checkpoint, truncated or damaged, or holding code instead of data.
    """
    path = weights_file(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file" if not path.exists() else f"{path} is a folder, not a weights file")
    if path.suffix == ".safetensors":
        try:
            return {"model": load_file(path)} | _timm_config(path.with_name("config.json"))
        except SafetensorError as error:
            raise UserError(f"{path} is not a whole safetensors file ({error}): copy it again") from None
    try:
        with torch.serialization.safe_globals(_INERT), warnings.catch_warnings(action="ignore", category=UserWarning):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, error)) from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, zipfile.BadZipFile):
        raise UserError(f"{path} is not a checkpoint, or it is truncated or damaged: copy it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint's dictionary")
    return content


def _timm_config(path: Path) -> dict[str, Any]:
    """What timm's config.json says of the weights beside it; nothing where there is none."""
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): copy it again") from None
    if not isinstance(config, dict) or not {"architecture", "pretrained_cfg"} <= config.keys():
        return {}
    labels = config.get("label_names")
    return {"timm": config} | ({"classes": labels} if isinstance(labels, list) else {})


def load_weights(
    model: nn.Module, path: str | Path, *, ema: bool | None = None, classes: Sequence[str] | None = None
) -> LoadReport:
    """Load weights into `model`: ours, safetensors, or released ones; renamed, reshaped and resized where needed.

    Bias tables of another resolution or window are resized bicubically, each head's own picture; a classifier for
    another number of classes is left as the model has it; a stem for other channels is adapted as timm does it.

    Args:
        path: checkpoint (.pt, .pth) or .safetensors file; or timm's local-dir:FOLDER or hf-hub:OWNER/NAME.
        ema: take the averaged weights of one of our checkpoints (True), the plain ones (False), or the averaged ones
            where there are any (None).
        classes: names of the model's classes; a file that says it has others leaves the model's classifier as it is,
            however many they are.

    Returns:
        A report of what was done.

    Raises:
        UserError: an unreadable file (see `read_checkpoint`), ema=True without averaged weights, or weights of another
            architecture. The model is unchanged then.
    """
    path = weights_file(path)
    content = read_checkpoint(path)
    state, report = _select_state(content, path, ema)
    if is_published(state):
        state = rename_published(state)
        report.source = "released checkpoint"
        report.notes.append("renamed the published parameters")
    report.classes = len(state["head.fc.weight"]) if "head.fc.weight" in state else None
    own = model.state_dict()
    if classes is not None and _has_other_classes(content, classes):
        report.notes.append("the file's classes have other names: a fresh classifier stays")
        state = {name: value for name, value in state.items() if not name.startswith("head.")}
    state = {name: _fit(model, name, value, own, report) for name, value in state.items()}
    state = {name: value for name, value in state.items() if value is not None}
    kept = {name for name in own if name.startswith("head.") and name not in state}
    missing = sorted(own.keys() - state.keys() - kept)
    unexpected = sorted(state.keys() - own.keys())
    wrong = sorted(name for name in state.keys() & own.keys() if state[name].shape != own[name].shape)
    if missing or unexpected or wrong:
        raise UserError(_architecture_error(path, missing, unexpected, wrong, state, own))
    if kept and not any("classifier" in note for note in report.notes):
        report.notes.append("the file has no classifier: the model keeps its own, untrained one")
    model.load_state_dict(own | state)
    return report


def count_classes(content: dict[str, Any], path: str | Path) -> int | None:
    """Classes of the classifier in a checkpoint's `content`, as of `read_checkpoint`; None without a classifier.

    Raises:
        UserError: there are no weights in it.
    """
    state, _ = _select_state(content, Path(path), None)
    weight = rename_published(state).get("head.fc.weight")
    return None if weight is None else len(weight)


def _select_state(content: dict[str, Any], path: Path, ema: bool | None) -> tuple[dict[str, Tensor], LoadReport]:
    """The weights in a checkpoint's dictionary, and a report begun."""
    averaged = content.get("ema")
    if ema and not averaged:
        raise UserError(
            f"{path} has no averaged weights (it was trained with ema.decay=0): ema=false takes the plain ones"
        )
    if averaged and ema is not False:
        return dict(averaged), LoadReport(path, "averaged weights (EMA) of a checkpoint")
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            return _without_prefix(content[key]), LoadReport(path, f"`{key}` of a checkpoint")
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return _without_prefix(content), LoadReport(path, "state dictionary")
    raise UserError(
        f"{path} has no weights under `model` or `state_dict`; its keys: {', '.join(map(str, content))[:200]}"
    )


def _has_other_classes(content: dict[str, Any], classes: Sequence[str]) -> bool:
    """Whether a checkpoint of ours names as many classes, and others."""
    names = content.get("classes")
    return isinstance(names, list) and len(names) == len(classes) and names != list(classes)


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what DDP and torch.compile put before them."""
    for prefix in ("module.", "_orig_mod."):
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def _fit(model: nn.Module, name: str, value: Tensor, own: dict[str, Tensor], report: LoadReport) -> Tensor | None:
    """`value` in the shape the model wants where that is known how; None leaves the model's own."""
    if name not in own:
        return None if name.startswith("head.") else value  # a model without a classifier takes the rest
    wanted = own[name].shape
    if wanted == value.shape:
        return value
    if name.startswith("head."):
        if name.endswith("weight"):
            report.notes.append(
                f"the file's classifier has {len(value)} classes, the model {wanted[0]}: a fresh one stays"
            )
        return None
    if name == "stem.conv.weight" and value.shape[0] == wanted[0] and value.shape[2:] == wanted[2:]:
        report.notes.append(f"adapted the stem from {value.shape[1]} to {wanted[1]} channels")
        return adapt_input_conv(wanted[1], value)
    resized = _resize_table(model, name, value, wanted)
    if resized is None:
        return value
    _note_resized(report, name, value.shape, wanted)
    return resized


def _resize_table(model: nn.Module, name: str, value: Tensor, wanted: torch.Size) -> Tensor | None:
    """A bias table for another window, kernel or resolution; None when `name` is no table or the heads differ."""
    owner = model.get_submodule(name.rpartition(".")[0])
    if name.endswith("relative_position_bias_table") and value.shape[1:] == wanted[1:]:  # ((2w-1)^2, heads)
        old, new = int(value.shape[0] ** 0.5), int(wanted[0] ** 0.5)
        pictures = value.T.reshape(1, -1, old, old).float()
        resized = F.interpolate(pictures, size=(new, new), mode="bicubic", align_corners=False)
        return resized.reshape(-1, new * new).T.to(value.dtype)
    if isinstance(owner, FixedBias) and len(value) == wanted[0]:  # (heads, H*W, Hk*Wk) of square maps
        old, old_keys = (int(n**0.5) for n in value.shape[1:])
        return resize_fixed_table(value, (old, old), (old_keys, old_keys), owner.size, owner.key_size)
    if name.endswith((".bias.table", ".rpb")) and value.ndim == 3 and len(value) == wanted[0]:  # (heads, 2H-1, 2W-1)
        resized = F.interpolate(value[None].float(), size=tuple(wanted[1:]), mode="bicubic", align_corners=False)
        return resized[0].to(value.dtype)
    return None


def _note_resized(report: LoadReport, name: str, old: torch.Size, new: torch.Size) -> None:
    """One line for each kind of table and size."""
    note = f"resized {name.rpartition('.')[2]} {tuple(old)} -> {tuple(new)} bicubically"
    if note not in report.notes:
        report.notes.append(note)


def _refusal(path: Path, error: Exception) -> str:
    """One line for what torch's reader of plain weights would not read."""
    unwanted = re.search(r"GLOBAL (\S+)|Unsupported class (\S+)", str(error))
    if unwanted:
        what = (unwanted[1] or unwanted[2]).rstrip(".")
        return f"{path} wants to run {what} on loading, which weights have no need of: refused, nothing was executed"
    return f"{path} is not a checkpoint of weights (a pickle of something else, or damaged): nothing was executed"


def _architecture_error(
    path: Path, missing: list[str], unexpected: list[str], wrong: list[str], state: dict, own: dict
) -> str:
    parts = []
    if missing:
        parts.append(f"lacks {len(missing)} of its {len(own)} parameters ({missing[0]}, ...)")
    if unexpected:
        parts.append(f"has {len(unexpected)} the model does not know ({unexpected[0]}, ...)")
    if wrong:
        name = wrong[0]
        parts.append(f"has {name} of shape {tuple(state[name].shape)} where the model wants {tuple(own[name].shape)}")
    return f"{path} belongs to another architecture than the model: the file {'; '.join(parts)}"
