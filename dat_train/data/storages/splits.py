"""Training, validation and evaluation sets: the choice among the splits of a storage, or the part held out of one."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from dat_train.data.randomness import held_out_by_order, keyed_seed
from dat_train.data.reading.image_files import first_named
from dat_train.data.reading.image_source import sample_key
from dat_train.data.storages.catalog import Catalog
from dat_train.data.storages.class_names import match_classes
from dat_train.data.storages.split_names import find_split
from dat_train.errors import UserError

ALL = "all"  # value of data.split for all images of data without splits
KEY_RANGE = 2.0**63  # upper end of the range of keyed_seed


class Storage(Protocol):
    """Labeled images in one storage format: folders, archives, tables, ..."""

    name: str

    def splits(self) -> list[str]:
        """Names of the splits; empty if the images are in one set."""

    def open(self, split: str | None) -> Catalog:
        """Return the images of a split, or of the one set (None). Only this split is read."""


@dataclass(frozen=True)
class HoldOut:
    """Part of each class that is held out for validation if the data has no splits.

    Attributes:
        fraction: of the images.
        seed: of the choice.
        by: "name" decides about each image by its class and name, so that added images move no other image between
            training and validation. "order" takes the same fraction of every class by the sorted list of names, as
            before version 0.2.
    """

    fraction: float = 0.1
    seed: int = 0
    by: str = "name"

    def part(self, catalog: Catalog) -> np.ndarray:
        """(number of images,) bool, True for those held out.

        Raises:
            UserError: none is held out.
        """
        chosen = (self._by_order if self.by == "order" else self._by_name)(catalog)
        if not chosen.any():
            raise UserError(
                f"data.val_fraction={self.fraction} holds out none of {len(catalog.samples)} images; raise it, or make "
                "a val/ folder (in a table, a column split)"
            )
        return chosen

    def _by_name(self, catalog: Catalog) -> np.ndarray:
        draws = np.empty(len(catalog.samples))
        for index, (path, label) in enumerate(catalog.samples):
            name = catalog.classes[label] if catalog.targets is None else ""  # labels may be added to an image
            draws[index] = keyed_seed("held out", self.seed, name, sample_key(path, catalog.base, name)) / KEY_RANGE
        chosen = draws < self.fraction
        labels, targets = catalog.samples.labels, catalog.targets
        if targets is None:
            number = len(catalog.classes)
            images, kept = np.bincount(labels, minlength=number), np.bincount(labels[~chosen], minlength=number)
            spare = images[labels] > 1
        else:
            images, kept = targets.sum(0), targets[~chosen].sum(0)
            spare = ~targets[:, images == 1].any(1) & (len(draws) > 1)
        for label in np.flatnonzero((images > 0) & (kept == 0)):  # a class keeps an image for training
            own = np.flatnonzero((labels == label) if targets is None else targets[:, label])
            chosen[own[draws[own].argmax()]] = False
        if not chosen.any() and self.fraction > 0 and spare.any():  # a small set has a validation image
            chosen[np.where(spare, draws, np.inf).argmin()] = True
        return chosen

    def _by_order(self, catalog: Catalog) -> np.ndarray:
        chosen = np.zeros(len(catalog.samples), bool)
        labels = catalog.samples.labels
        for label in range(len(catalog.classes)):
            chosen[held_out_by_order(np.flatnonzero(labels == label), label, self.fraction, self.seed)] = True
        return chosen


def open_pair(storage: Storage, hold_out: HoldOut) -> tuple[Catalog, Catalog]:
    """Return training and validation images.

    Raises:
        UserError: a split is missing, nothing is held out, or validation has a class that training does not have.
    """
    names = storage.splits()
    if not names:
        whole = storage.open(None)
        held_out = hold_out.part(whole)
        val = replace(whole.select(np.flatnonzero(held_out)), notes=())
        return whole.select(np.flatnonzero(~held_out)), val
    train = find_split(names, "train")
    if train is None:
        raise UserError(f"{storage.name} has {first_named(names)} but no train/; to evaluate it use dat-eval")
    val = find_split(names, "val") or find_split(names, "test")
    if val is None:
        raise UserError(
            f"{storage.name} has {train}/ but no val/, validation/ or test/; or set data.root to {train}/ to hold out "
            "a part of it"
        )
    training = storage.open(train)
    validation = match_classes(storage.open(val), training.classes, f"{storage.name}/{val}", f"{train}/")
    if not find_split([val], "val"):
        note = f"{storage.name} has no val/: {val}/ is the validation set, and best.pt is chosen by it"
        validation = replace(validation, notes=(*validation.notes, note))
    return training, validation


def open_evaluation_part(storage: Storage, split: str | None, hold_out: HoldOut | None) -> Catalog:
    """Return the images to evaluate; no other split is read.

    Args:
        split: name of the split, in any case; "all": all images of data without splits; None: val/, else test/, or of
            data without splits the held-out part or all images.
        hold_out: that of the training run, if it held out a part of the same set; None: the whole set.

    Raises:
        UserError: no such split, or only a training split.
    """
    names = storage.splits()
    if split == ALL and not names:
        return storage.open(None)
    if split is not None:
        found = find_split(names, split)
        if found is None:
            has = f"it has {first_named(names)}" if names else "it has no splits; leave data.split out"
            raise UserError(f"data.split={split} is not in {storage.name}; {has}")
        return storage.open(found)
    if not names:
        whole = storage.open(None)
        if hold_out is None:
            return whole
        part = whole.select(np.flatnonzero(hold_out.part(whole)))
        note = (
            f"{len(part.samples):,} of {len(whole.samples):,} images: those the training run held out "
            f"(data.val_fraction={hold_out.fraction}, data.split_seed={hold_out.seed}); data.split=all takes all"
        )
        return replace(part, notes=(*part.notes, note))
    found = find_split(names, "val") or find_split(names, "test")
    if found is None:
        raise UserError(f"{storage.name} has only {first_named(names)}; data.split={names[0]} evaluates it")
    part = storage.open(found)
    others = [name for name in names if name != found]
    note = f"{found}/ is evaluated" + (f"; there is also {first_named(others)}" if others else "")
    return replace(part, notes=(*part.notes, note))
