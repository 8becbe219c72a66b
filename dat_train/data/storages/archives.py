"""Images in archives that are not unpacked: zip or tar of folders, ImageNet's official archives, WebDataset shards."""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from dat_train.data.images import printable
from dat_train.data.reading.archive_index import ARCHIVES, NO_FILE, ArchiveIndex, index_archives
from dat_train.data.reading.archive_source import ArchiveSource
from dat_train.data.reading.image_files import LeftOut, is_image, is_system
from dat_train.data.storages.catalog import Catalog, sorted_catalog
from dat_train.data.storages.class_names import imagenet_numbers
from dat_train.data.storages.imagenet_labels import validation_classes
from dat_train.data.storages.split_names import SPLITS, find_split, is_split
from dat_train.errors import UserError

SIDECARS = (".cls", ".json", ".txt")
OFFICIAL = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
CLASS_LISTS = ("classes.txt", "classnames.txt", "labels.txt")


class ArchivedFolders:
    """Class folders, with or without split folders around them, in a zip or tar file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self._left_out = LeftOut()

    def splits(self) -> list[str]:
        """Names of the split folders at the top of the archive."""
        tops = {name.parts[0] for name in self._images.values()}
        splits = [top for top in sorted(tops) if is_split(top)]
        deep = {name.parts[0] for name in self._images.values() if len(name.parts) > 2}
        return splits if set(splits) == tops or set(splits) <= deep else []

    def open(self, split: str | None) -> Catalog:
        """Return the images below a split folder, or all (None).

        Raises:
            UserError: no images in class folders.
        """
        skipped = 0 if split is None else 1
        inside = {
            row: PurePosixPath(*name.parts[skipped:])
            for row, name in self._images.items()
            if split is None or name.parts[0] == split
        }
        kept = {row: name for row, name in inside.items() if len(name.parts) > 1}
        if not kept:
            raise UserError(f"{self.path} has no images in class folders{f' below {split}/' if split else ''}")
        self._left_out.loose = len(inside) - len(kept)
        return sorted_catalog(
            [str(name) for name in kept.values()],
            [printable(name.parts[0]) for name in kept.values()],
            base=f"{self.path}/{split}" if split else self.name,
            source=ArchiveSource([self.path], self._index, np.array(list(kept))),
            notes=self._left_out.notes(self.name),
        )

    @cached_property
    def _index(self) -> ArchiveIndex:
        return index_archives([self.path])

    @cached_property
    def _images(self) -> dict[int, PurePosixPath]:
        """Names of the images by row of the index, without a folder around all classes or splits."""
        names, others = _members(self._index, self._left_out)
        for name in others.values():
            self._left_out.add(name)
        images = {row: PurePosixPath(name) for row, name in names.items()}
        while len(tops := {name.parts[0] for name in images.values()}) == 1 and not is_split(*tops):
            if any(len(name.parts) < 3 for name in images.values()):  # one class, not a folder around the classes
                break
            images = {row: PurePosixPath(*name.parts[1:]) for row, name in images.items()}
        return images


class OfficialArchives:
    """ImageNet-1K in the archives of the ILSVRC 2012 challenge, not unpacked, and labels next to them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)

    def splits(self) -> list[str]:
        """The splits whose archive is in the folder."""
        return [split for split, name in OFFICIAL.items() if (self.root / name).is_file()]

    def open(self, split: str | None) -> Catalog:
        """Return the images of a split.

        Raises:
            UserError: a damaged archive, or no labels of the validation images.
        """
        path = self.root / OFFICIAL[split or "val"]
        index, left_out = index_archives([path]), LeftOut()
        images, others = _members(index, left_out)
        if not images:
            raise UserError(f"{path} has no images")
        for name in others.values():
            left_out.add(name)
        names = list(images.values())
        if split == "train":
            classes = [name.partition("/")[0] for name in names]
        else:
            classes = validation_classes(names, self.root, path)
        source = ArchiveSource([path], index, np.array(list(images)))
        return sorted_catalog(names, classes, base=str(path), source=source, notes=left_out.notes(str(path)))


class Shards:
    """WebDataset shards: tar files in which each image is next to its label, KEY.jpg and KEY.cls or KEY.json.

    Args:
        label: key of the label in .json files.
    """

    def __init__(self, root: Path, label: str | None = None) -> None:
        self.root = root
        self.name = str(root)
        self.label = label or "label"

    def splits(self) -> list[str]:
        """Splits in the shards' names (imagenet1k-train-0000.tar) or folders (train/0000.tar)."""
        return list(dict.fromkeys(split for split in map(_split_of, self._shards()) if split))

    def open(self, split: str | None) -> Catalog:
        """Return the images of a split, or of all shards (None).

        Raises:
            UserError: no shards, a damaged one, or an image without a label.
        """
        paths = [path for path in self._shards() if split is None or _split_of(path) == split]
        if not paths:
            raise UserError(f"{self.root} has no shards (*.tar)")
        index, left_out = index_archives(paths, SIDECARS), LeftOut()
        images, others = _members(index, left_out)
        if not images:
            raise UserError(f"{paths[0].parent} has shards without images")
        keys = {row: (int(index.archives[row]), _key(name)) for row, name in (images | others).items()}
        with_image = {keys[row] for row in images}
        labels: dict[tuple[int, str], str] = {}
        for row, name in others.items():
            value = self._label(name, index.texts[row])
            if value is not None:
                labels.setdefault(keys[row], value)
            if keys[row] not in with_image or not name.lower().endswith(SIDECARS):
                left_out.add(name)
        missing = next((key[1] for key in map(keys.get, images) if key not in labels), None)
        if missing is not None:
            raise UserError(
                f"{self.root}: image {missing} has no KEY.cls, and no KEY.json with {self.label!r} (data.label_column)"
            )
        return sorted_catalog(
            [f"{keys[row][1]}.{name.rpartition('.')[2]}" for row, name in images.items()],
            class_names_of([labels[keys[row]] for row in images], self.root),
            base=self.name,
            source=ArchiveSource(paths, index, np.array(list(images))),
            notes=left_out.notes(self.name),
        )

    def _shards(self) -> list[Path]:
        return [path for path in sorted(self.root.rglob("*.tar")) if not is_system(path.name)]

    def _label(self, name: str, text: str) -> str | None:
        """Label in the file next to an image, or None."""
        suffix = name.rpartition("/")[2].partition(".")[2].lower() if text else ""
        if suffix == "cls":
            return text.strip()
        if suffix != "json":
            return None
        try:
            value = json.loads(text).get(self.label)
        except (ValueError, AttributeError):
            return None
        return None if value is None else str(value)


def class_names_of(values: Sequence[str], root: Path) -> list[str]:
    """Class names of labels in shards: numbers become the names in classes.txt, or ImageNet's if all 1000 occur."""
    if not all(re.fullmatch(r"\d+", value) for value in set(values)):
        return list(values)
    highest = max(map(int, values))
    listed = next((root / name for name in CLASS_LISTS if (root / name).is_file()), None)
    if listed:
        names = [line.strip() for line in listed.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        if highest >= len(names):
            raise UserError(
                f"{listed} has {len(names):,} names, one a line, and the labels, counted from 0, reach {highest}"
            )
    elif highest == 999 or re.search("imagenet", root.name, re.IGNORECASE):
        names = imagenet_numbers()
    else:
        return list(values)
    return [names[int(value)] for value in values]


def _members(index: ArchiveIndex, left_out: LeftOut) -> tuple[dict[int, str], dict[int, str]]:
    """Names of the images and of the other files by row of the index; no system files. Broken links are counted."""
    images, others = {}, {}
    for row, (name, offset) in enumerate(zip(index.names, index.offsets.tolist(), strict=True)):
        if any(map(is_system, name.split("/"))):
            continue
        if offset == NO_FILE:
            left_out.broken.append(name)
        else:
            (images if is_image(name) else others)[row] = name
    return images, others


def _key(name: str) -> str:
    """Key of a shard's member: its name up to the first dot of the file name."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _split_of(path: Path) -> str | None:
    """Split in a shard's file name or folder."""
    words = [*re.split(r"[^A-Za-z]+", path.stem), path.parent.name]
    return next((found for split in SPLITS if (found := find_split(words, split))), None)


def is_archive(path: Path) -> bool:
    """Return True for a zip or tar file."""
    return path.is_file() and path.suffix.lower() in ARCHIVES
