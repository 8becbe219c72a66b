"""Loading of weights into a model: checkpoints of dat-train, safetensors, timm's files and released checkpoints."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from dat_train.errors import UserError
from dat_train.models.weights.checkpoint import Checkpoint
from dat_train.models.weights.fitting import fit_state
from dat_train.models.weights.published_names import is_published, rename_published

CLASSIFIER = "head.fc"  # of our models, and of a model without timm's pretrained_cfg
LAST_NORMS = ("norm.", "fc_norm.", "head.norm.")  # after the last stage; the backbone of a dense model has none
PUBLISHED_ROOTS = {"patch_proj", "stages", "down_projs", "cls_norm"}  # first parts of published names
DENSE_NORMS = "norms."  # a norm for each feature map, which a classifier does not have
MAX_DEPTH = 3  # modules around a backbone, as in "model.student.backbone."


@dataclass
class LoadReport:
    """Weights that `load_weights` read and the changes it made; `str()` gives readable lines.

    Attributes:
        path: the file.
        source: layout of the file, in words.
        notes: changes to the weights, in words.
        classes: classes of the file's classifier; None if it has none.
    """

    path: Path
    source: str
    notes: list[str] = field(default_factory=list)
    classes: int | None = None

    def __str__(self) -> str:
        return "\n".join([f"weights: {self.path} ({self.source})", *(f"  {note}" for note in self.notes)])


def load_weights(
    model: nn.Module,
    weights: Checkpoint | str | Path,
    *,
    ema: bool | None = None,
    classes: Sequence[str] | None = None,
) -> LoadReport:
    """Load weights into `model`, renamed, reshaped and resized as needed (see `fit_state`).

    Args:
        weights: a checkpoint, or a source as in `Checkpoint.open`.
        ema: take the averaged weights (True), the plain ones (False), or the averaged ones if there are any (None).
        classes: names of the model's classes. If the file has as many classes with other names, its classifier is not
            loaded.

    Returns:
        A report of the changes.

    Raises:
        UserError: an unreadable file, ema=True without averaged weights, or weights of another architecture. The model
            is unchanged then.
    """
    checkpoint = weights if isinstance(weights, Checkpoint) else Checkpoint.open(weights)
    state, report = _choose_state(checkpoint, ema)
    own = model.state_dict()
    is_part = False
    if hasattr(model, "adapt_state"):  # models of segmentation and detection
        state, notes = model.adapt_state(state)
        report.notes += notes
    else:
        state, is_part = _by_model_names(state, set(own), report)
    classifier, stem = _modules(model, "classifier", (CLASSIFIER,)), _modules(model, "first_conv", ("stem.conv",))
    report.classes = _count_rows(state, classifier)
    in_file = any(name.rpartition(".")[0] in classifier for name in state)
    if classes is not None and len(checkpoint.classes) == len(classes) and checkpoint.classes != list(classes):
        report.notes.append("the file's classes have other names: a newly initialized classifier stays")
        state = {name: value for name, value in state.items() if name.rpartition(".")[0] not in classifier}
    state, notes = fit_state(model, state, classifier, stem)
    report.notes += notes

    norms: set[str] = set()
    absent = [name for name in own if name not in state]
    kept = {name for name in absent if name.rpartition(".")[0] in classifier}
    if is_part and (norms := {name for name in absent if name.startswith(LAST_NORMS)}):
        report.notes.append(f"the file has no final norm: the model keeps its own ({min(norms)}, ...)")
        kept |= norms
    _check_names_and_shapes(checkpoint.path, state, own, kept)
    if kept - norms and not in_file:
        report.notes.append("the file has no classifier: the model keeps its own, untrained one")
    model.load_state_dict(own | state)
    return report


def count_classes(checkpoint: Checkpoint, classifier: Iterable[str] = (CLASSIFIER,)) -> int | None:
    """Number of classes of a checkpoint's classifier; None if it has none.

    Args:
        classifier: names of the classifier's modules.
    """
    states = checkpoint.states
    return _count_rows(rename_published(states.plain or states.averaged or {}), tuple(classifier))


def _choose_state(checkpoint: Checkpoint, ema: bool | None) -> tuple[dict[str, Tensor], LoadReport]:
    """Averaged or plain weights, and a new report."""
    states = checkpoint.states
    if ema and states.averaged is None:
        raise UserError(f"{checkpoint.path} has no averaged weights (in dat-train: ema.decay=0); ema=false, or none")
    averaged = states.averaged is not None and (ema is not False or states.plain is None)
    state = states.averaged if averaged else states.plain
    source = states.averaged_source if averaged else states.plain_source
    return dict(state), LoadReport(checkpoint.path, source, list(states.notes))


def _by_model_names(state: dict[str, Tensor], own: set[str], report: LoadReport) -> tuple[dict[str, Tensor], bool]:
    """Weights by the model's parameter names `own`, and True if they are a part of a larger model."""
    state, is_part = _take_backbone(state, own, report.notes)
    if is_published(state):
        state = rename_published(state)
        report.source = "released checkpoint"
        report.notes.append("renamed the published parameters")
    return state, is_part


def _take_backbone(state: dict[str, Tensor], own: set[str], notes: list[str]) -> tuple[dict[str, Tensor], bool]:
    """Weights under the prefix that gives the most names of the model, and True if others were left out.

    The prefix is that of a detector, a Lightning module or self-supervised training. Without a matching prefix, or if
    the names match already, `state` is returned.
    """
    if _count_matches(state, own):
        return state, False
    roots = PUBLISHED_ROOTS | {name.partition(".")[0] for name in own}
    parts = [name.split(".") for name in state]
    depths = range(1, MAX_DEPTH + 1)
    prefixes = dict.fromkeys(".".join(p[:n]) + "." for p in parts for n in depths if len(p) > n and p[n] in roots)
    inside = {
        prefix: {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        for prefix in prefixes
    }
    best = max(inside, key=lambda prefix: _count_matches(inside[prefix], own), default=None)
    if best is None or not _count_matches(inside[best], own):
        return state, False
    inner = {name: value for name, value in inside[best].items() if not name.startswith(DENSE_NORMS)}
    others = [name for name in state if not name.startswith(best)]
    left_out = len(state) - len(inner)
    if others:
        notes.append(f"took the {len(inner)} weights under {best}, left out {left_out} others ({others[0]}, ...)")
    else:
        notes.append(f"removed the prefix {best} from all names")
    return inner, left_out > 0


def _count_matches(state: dict[str, Tensor], own: set[str]) -> int:
    """Number of the model's parameters in `state`, by our names or published ones."""
    return len(own.intersection(rename_published(state)))


def _modules(model: nn.Module, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """Module names that timm's pretrained_cfg of `model` has under `key`."""
    config = getattr(model, "pretrained_cfg", None) or {}
    names = config.get(key) or default
    return (names,) if isinstance(names, str) else tuple(names)


def _count_rows(state: dict[str, Tensor], classifier: tuple[str, ...]) -> int | None:
    """Rows of the first classifier in `state`, also inside a larger model; None without one."""
    endings = tuple(f".{name}.weight" for name in classifier)
    return next((len(weight) for name, weight in state.items() if f".{name}".endswith(endings)), None)


def _check_names_and_shapes(path: Path, state: dict[str, Tensor], own: dict[str, Tensor], kept: set[str]) -> None:
    """Raise a UserError unless `state` has the names and shapes of `own`, apart from those in `kept`."""
    missing = sorted(own.keys() - state.keys() - kept)
    unexpected = sorted(state.keys() - own.keys())
    wrong = sorted(name for name in state.keys() & own.keys() if state[name].shape != own[name].shape)
    parts = []
    if missing:
        parts.append(f"lacks {len(missing)} of its {len(own)} parameters ({missing[0]}, ...)")
    if unexpected:
        parts.append(f"has {len(unexpected)} that the model does not have ({unexpected[0]}, ...)")
    if wrong:
        name = wrong[0]
        parts.append(f"has {name} of shape {tuple(state[name].shape)}, the model {tuple(own[name].shape)}")
    if parts:
        raise UserError(f"{path} belongs to another architecture than the model: the file {'; '.join(parts)}")
