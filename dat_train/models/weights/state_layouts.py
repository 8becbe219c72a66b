"""Layouts of checkpoint dictionaries: keys of plain and averaged weights."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

PLAIN_KEYS = ("model", "state_dict", "model_state_dict", "module", "net", "student")
AVERAGED_KEYS = (
    "ema",  # dat-train
    "state_dict_ema",  # timm's training script
    "model_ema",  # DeiT, ConvNeXt, torchvision's references
    "ema_state_dict",  # mmengine
    "model_ema_state_dict",
    "ema_model",
    "teacher",  # DINO, iBOT
)
WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile


@dataclass(frozen=True)
class States:
    """Weights in a checkpoint.

    Attributes:
        plain: weights by name; None if the file has averaged ones only.
        averaged: averaged weights by name, or None.
        plain_source: layout of the plain weights in words.
        averaged_source: the same for the averaged ones.
        notes: changes to the names, in words.
    """

    plain: dict[str, Tensor] | None
    averaged: dict[str, Tensor] | None
    plain_source: str
    averaged_source: str
    notes: tuple[str, ...] = ()


def select_states(content: dict[str, Any]) -> States | None:
    """Find the weights in a checkpoint's dictionary; None if there are none."""
    plain_key, plain = _first(content, PLAIN_KEYS)
    averaged_key, averaged = _first(content, AVERAGED_KEYS)
    source = f"`{plain_key}` of a checkpoint"
    if plain is None and averaged is None and content and _is_state(content):
        plain, source = content, "state dictionary"
    if plain is None and averaged is None:
        return None
    notes: dict[str, None] = {}
    plain, averaged = (None if state is None else _without_wrappers(state, notes) for state in (plain, averaged))
    return States(plain, averaged, source, f"averaged weights (EMA), `{averaged_key}` of a checkpoint", tuple(notes))


def _first(content: dict[str, Any], keys: tuple[str, ...]) -> tuple[str, dict[str, Tensor] | None]:
    """The first of `keys` with a state dictionary, and that dictionary."""
    for key in keys:
        state = _state_of(content.get(key))
        if state is not None:
            return key, state
    return "", None


def _state_of(value: Any) -> dict[str, Tensor] | None:
    """`value` if it is a state dictionary, or the one inside it; None otherwise."""
    if not isinstance(value, dict):
        return None
    if not value or _is_state(value):
        return value
    _, inner = _first(value, ("state_dict", "module", "model", "shadow"))
    return inner


def _is_state(value: dict[str, Any]) -> bool:
    """True if the values are tensors; entries such as a module's extra state may be others."""
    return any(isinstance(item, Tensor) for item in value.values()) and not any(
        isinstance(item, dict) for item in value.values()
    )


def _without_wrappers(state: dict[str, Any], notes: dict[str, None]) -> dict[str, Tensor]:
    """Tensors of a state dictionary without the prefixes of wrappers; adds a note for each prefix removed."""
    state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    counter = state.pop("n_averaged", None)  # of torch.optim.swa_utils.AveragedModel
    if counter is not None:
        notes["left out the counter n_averaged"] = None
    while prefix := next((p for p in WRAPPERS if state and all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        notes[f"removed the prefix {prefix} from all names"] = None
    return state
