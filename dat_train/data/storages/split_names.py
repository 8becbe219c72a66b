"""Names of splits, in any case: training, validation and test."""

from collections.abc import Sequence

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def find_split(names: Sequence[str], split: str) -> str | None:
    """Return the first of `names` that means `split`, in any case, or None.

    Args:
        split: "train", "val", "test", "any" of these, or another name; upper and lower case are equal.
    """
    if split == "any":
        wanted = [name for synonyms in SPLITS.values() for name in synonyms]
    else:
        wanted = next((synonyms for synonyms in SPLITS.values() if split.lower() in synonyms), ())
        wanted = [split.lower(), *wanted]
    by_lower: dict[str, str] = {}
    for name in names:
        by_lower.setdefault(name.lower(), name)
    return next((by_lower[name] for name in wanted if name in by_lower), None)


def split_key(name: str) -> str:
    """Key of a split that is equal for all its names: synonyms, upper and lower case."""
    return next((split for split, synonyms in SPLITS.items() if name.lower() in synonyms), name.lower())


def is_split(name: str) -> bool:
    """Return True if `name` is a usual name of a split."""
    return find_split([name], "any") is not None
