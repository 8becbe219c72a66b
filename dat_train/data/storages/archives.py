"""Images in archives that are not unpacked: zip or tar of folders, ImageNet's official archives, WebDataset shards."""

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from dat_train.data.images import printable
from dat_train.data.reading.archive_index import ARCHIVES, ArchiveIndex, index_archives
from dat_train.data.reading.archive_source import ArchiveSource
from dat_train.data.reading.image_files import LeftOut, is_image, is_system
from dat_train.data.storages.catalog import Catalog, sorted_catalog
from dat_train.data.storages.class_names import imagenet_numbers
from dat_train.data.storages.imagenet_labels import validation_labels
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
        self._index: ArchiveIndex | None = None
        self._names: list[PurePosixPath] = []
        self._left_out = LeftOut()

    def splits(self) -> list[str]:
        """Names of the split folders at the top of the archive."""
        self._load()
        tops = {name.parts[0] for name in self._names}
        splits = [top for top in sorted(tops) if is_split(top)]
        deep = {name.parts[0] for name in self._names if len(name.parts) > 2}
        return splits if set(splits) == tops or set(splits) <= deep else []

    def open(self, split: str | None) -> Catalog:
        """Return the images below a split folder, or all (None).

        Raises:
            UserError: no images in class folders.
        """
        self._load()
        rows = [row for row, name in enumerate(self._names) if split is None or name.parts[0] == split]
        skipped = 0 if split is None else 1
        inside = [PurePosixPath(*self._names[row].parts[skipped:]) for row in rows]
        kept = [(row, name) for row, name in zip(rows, inside, strict=True) if len(name.parts) > 1]
        if not kept:
            raise UserError(f"{self.path} has no images in class folders{f' below {split}/' if split else ''}")
        self._left_out.loose = len(rows) - len(kept)
        return sorted_catalog(
            [str(name) for _, name in kept],
            [printable(name.parts[0]) for _, name in kept],
            base=f"{self.path}/{split}" if split else self.name,
            source=ArchiveSource([self.path], self._index, np.array([row for row, _ in kept])),
            notes=self._left_out.notes(self.name),
        )

    def _load(self) -> None:
        if self._index is not None:
            return
        self._index = index_archives([self.path], lambda name: not name.endswith("/"))
        rows, names = [], []
        for row, text in enumerate(self._index.names):
            name = PurePosixPath(text)
            if any(is_system(part) for part in name.parts):
                continue
            if is_image(name.name):
                rows.append(row)
                names.append(name)
            else:
                self._left_out.add(name.name)
        self._index = select_rows(self._index, rows)
        while names and len({name.parts[0] for name in names}) == 1 and not is_split(names[0].parts[0]):
            if any(len(name.parts) < 3 for name in names):  # one class at the top, not a folder around the classes
                break
            names = [PurePosixPath(*name.parts[1:]) for name in names]
        self._names = names


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
        index = index_archives([path], is_image)
        if split == "train":
            classes = [PurePosixPath(name).parts[0] for name in index.names]
        else:
            labels = validation_labels(self.root, path)
            classes = [label_of(labels, name, path) for name in index.names]
        return sorted_catalog(index.names, classes, base=str(path), source=ArchiveSource([path], index))


def label_of(labels: dict[str, str], name: str, where: Path) -> str:
    """Class of a validation image by its file name.

    Raises:
        UserError: it has none.
    """
    stem = PurePosixPath(name).stem
    if stem not in labels:
        raise UserError(f"{where}: {name} has no label; the labels are of {len(labels):,} other images")
    return labels[stem]


class Shards:
    """WebDataset shards: tar files in which each image lies next to its label, KEY.jpg and KEY.cls or KEY.json.

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
        index = index_archives(paths, is_image, SIDECARS)
        labels: dict[tuple[int, str], str] = {}
        for row, text in enumerate(index.texts):
            if text and not is_image(index.names[row]):
                key, _, suffix = _key(index.names[row])
                value = self._label(suffix, text)
                if value is not None:
                    labels.setdefault((int(index.archives[row]), key), value)
        rows = [row for row, name in enumerate(index.names) if is_image(name)]
        keys = [_key(index.names[row])[0] for row in rows]
        pairs = [(int(index.archives[row]), key) for row, key in zip(rows, keys, strict=True)]
        missing = next((key for archive, key in pairs if (archive, key) not in labels), None)
        if not rows:
            raise UserError(f"{paths[0].parent} has shards without images")
        if missing is not None:
            raise UserError(
                f"{self.root}: image {missing} has no KEY.cls, and no KEY.json with {self.label!r} (data.label_column)"
            )
        values = [labels[pair] for pair in pairs]
        classes = class_names_of(values, self.root)
        names = [f"{key}{PurePosixPath(index.names[row]).suffix}" for row, key in zip(rows, keys, strict=True)]
        source = ArchiveSource(paths, index, np.array(rows))
        return sorted_catalog(names, classes, base=self.name, source=source)

    def _shards(self) -> list[Path]:
        return [path for path in sorted(self.root.rglob("*.tar")) if not is_system(path.name)]

    def _label(self, suffix: str, text: str) -> str | None:
        if suffix == ".cls":
            return text.strip()
        if suffix != ".json":
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
    listed = next((root / name for name in CLASS_LISTS if (root / name).is_file()), None)
    if listed:
        names = [line.strip() for line in listed.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        highest = max(map(int, values))
        if highest >= len(names):
            raise UserError(
                f"{listed} has {len(names):,} names, one a line, and the labels, counted from 0, reach {highest}"
            )
        return [names[int(value)] for value in values]
    if max(map(int, values)) == 999 or re.search("imagenet", root.name, re.IGNORECASE):
        return [imagenet_numbers()[int(value)] for value in values]
    return list(values)


def _key(name: str) -> tuple[str, str, str]:
    """Key of a shard's member (up to the first dot of the file name), the dot, and the suffix in lower case."""
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return f"{folder}{slash}{stem}".removeprefix("./"), dot, f".{suffix.lower()}"


def _split_of(path: Path) -> str | None:
    """Split in a shard's file name or folder."""
    words = [*re.split(r"[^A-Za-z]+", path.stem), path.parent.name]
    for split in SPLITS:
        if found := find_split(words, split):
            return found
    return None


def select_rows(index: ArchiveIndex, rows: Sequence[int]) -> ArchiveIndex:
    """Return these members of an index."""
    arrays = [array[list(rows)] for array in (index.archives, index.offsets, index.sizes, index.methods)]
    return ArchiveIndex([index.names[row] for row in rows], *arrays, [index.texts[row] for row in rows])


def is_archive(path: Path) -> bool:
    """Return True for a zip or tar file."""
    return path.is_file() and path.suffix.lower() in ARCHIVES
