"""Fingerprint of the data of a run: classes, number and names of images, independent of location and storage format."""

from typing import Any

from torch.utils.data import Dataset

from dat_train.data.dataset import ImageDataset
from dat_train.data.reading.image_files import first_named
from dat_train.data.storages.class_names import composed

MAX_CLASSES = 8  # maximum number of named classes with changed counts


def data_fingerprint(train_set: Dataset, val_set: Dataset) -> dict[str, Any]:
    """Return plain values that identify the images of a run, for its checkpoints.

    Args:
        train_set, val_set: with `classes`, `samples` and `fingerprint()`.

    Returns:
        "classes": class names by label; "train" and "val": {"images": number, "digest": hash of classes and names,
        "per_class": number of images by label, empty for images without a single label}.
    """
    parts = {"train": train_set, "val": val_set}
    return {"classes": list(train_set.classes)} | {name: _part(dataset) for name, dataset in parts.items()}


def _part(dataset: Dataset) -> dict[str, Any]:
    counts = dataset.class_counts().tolist() if isinstance(dataset, ImageDataset) else []
    return {"images": len(dataset), "digest": dataset.fingerprint(), "per_class": counts}


def data_difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Describe the difference between two fingerprints in one line; None if they are equal."""
    if before == now:
        return None
    if text := class_difference(before["classes"], now["classes"]):
        return text
    texts = []
    for part, name in (("train", "training"), ("val", "validation")):
        old, new = before[part], now[part]
        if old == new:
            continue
        if not old["per_class"]:
            was, is_ = old["images"], new["images"]
            names = "as many images, with other file names or annotations"
            texts.append(f"{name}: {names}" if was == is_ else f"{name}: {was:,} images -> {is_:,}")
            continue
        if old["per_class"] == new["per_class"]:
            texts.append(f"{name}: as many images of each class, with other file names")
            continue
        changed = [
            f"{now['classes'][label]} {was:,} -> {is_:,}"
            for label, (was, is_) in enumerate(zip(old["per_class"], new["per_class"], strict=True))
            if was != is_
        ]
        texts.append(f"{name}: {old['images']:,} images -> {new['images']:,} ({first_named(changed, MAX_CLASSES)})")
    return "; ".join(texts)


def class_difference(before: list[str], now: list[str]) -> str | None:
    """Describe added and removed class names in one line; None if the lists are equal after Unicode composition."""
    before, now = [composed(name) for name in before], [composed(name) for name in now]
    if before == now:
        return None
    gone = [name for name in before if name not in set(now)]
    new = [name for name in now if name not in set(before)]
    if not gone and not new:
        return "classes: the same names in another order"
    parts = [f"{word} {first_named(names)}" for word, names in (("without", gone), ("with the new", new)) if names]
    return f"classes: {', '.join(parts)}"


def describe_data(train_set: ImageDataset, val_set: ImageDataset) -> list[tuple[str, str]]:
    """(topic, text) pairs printed before training: first class names with their counts, and notes."""
    rows = [("classes", class_counts(train_set))]
    if len(train_set.classes) == 1 and train_set.targets is None:
        text = "there is only one class, so nothing is learned; data.root must be the folder around the class folders"
        rows.append(("note", text))
    return rows + [("note", note) for note in dict.fromkeys((*train_set.notes, *val_set.notes))]


def class_counts(dataset: ImageDataset, number: int = 5) -> str:
    """First class names with their numbers of images; with more classes, also the range of these numbers."""
    counts = dataset.class_counts()
    named = [f"{name} ({count:,})" for name, count in zip(dataset.classes[:number], counts, strict=False)]
    if len(dataset.classes) <= number:
        return ", ".join(named)
    return f"{', '.join(named)}, ...; {counts.min():,} to {counts.max():,} images a class"
