"""Parameter names of a backbone inside a larger model: detectors, Lightning modules, self-supervised training."""

from collections import Counter
from collections.abc import Collection

from torch import Tensor

from dat_train.models.published_names import is_published, rename_published

MAX_DEPTH = 3  # modules around the backbone, as in "model.student.backbone."
# Modules of a dense model's backbone that a classifier does not have: a norm for each feature map.
DENSE_NORMS = "norms."


def take_backbone(
    state: dict[str, Tensor], own: Collection[str], roots: Collection[str]
) -> tuple[dict[str, Tensor], list[str], bool]:
    """Take the weights under the prefix with which most names agree with the model's.

    Args:
        state: weights by name, also by published ones.
        own: parameter names of the model.
        roots: first parts of the names to look for: those of `own` and the published ones.

    Returns:
        The weights without the prefix; the change in words; True if weights outside the prefix were left out. Without
        a matching prefix, or if the names agree already, `state` itself.
    """
    own = set(own)
    if _matches(state, own):
        return state, [], False
    found: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        for depth in range(1, min(MAX_DEPTH, len(parts) - 1) + 1):
            if parts[depth] in roots:
                found[".".join(parts[:depth]) + "."] += 1
    best, score = None, 0
    for prefix, _ in found.most_common():
        inner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if (matches := _matches(inner, own)) > score:
            best, score = prefix, matches
    if best is None:
        return state, [], False
    inner = {name.removeprefix(best): value for name, value in state.items() if name.startswith(best)}
    inner = {name: value for name, value in inner.items() if not name.startswith(DENSE_NORMS)}
    others = [name for name in state if not name.startswith(best)]
    if not others:
        return inner, [f"removed the prefix {best} from all names"], len(inner) < len(state)
    note = f"took the {len(inner)} weights under {best}, left out {len(state) - len(inner)} others ({others[0]}, ...)"
    return inner, [note], True


def _matches(state: dict[str, Tensor], own: set[str]) -> int:
    """Number of the model's parameters in `state`, by our names or published ones."""
    names = rename_published(state) if is_published(state) else state
    return len(own.intersection(names))
