"""Images of a Hugging Face data set: saved by `datasets`, as parquet files, or by its name on the Hub."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dat_train.data.reading.image_files import first_named
from dat_train.data.storages.catalog import Catalog, sorted_catalog
from dat_train.data.storages.class_names import IMAGENET_CLASSES, imagenet_numbers, words_to_number
from dat_train.errors import UserError
from dat_train.home_folder import expand_home

T = TypeVar("T")


class HuggingFace:
    """Labeled images of a data set that `datasets` opens.

    Args:
        root: folder of a saved data set or of parquet files, or a name on the Hub.
        image_column, label_column: None: the first column of images and the first of class labels.
    """

    def __init__(self, root: str | Path, image_column: str | None = None, label_column: str | None = None) -> None:
        self.root = expand_home(root)
        self.name = str(root)
        self.image_column, self.label_column = image_column, label_column

    def splits(self) -> list[str]:
        """Names of the splits, without reading them."""
        datasets = import_datasets()
        if (self.root / "dataset_dict.json").is_file():
            return sorted(path.name for path in self.root.iterdir() if (path / "state.json").is_file())
        if (self.root / "state.json").is_file():
            return []
        if self.root.is_dir():
            return sorted(map(str, self._read(datasets.data_files.get_data_patterns)))
        return self._hub(lambda: datasets.get_dataset_split_names(self.name))

    def open(self, split: str | None) -> Catalog:
        """Return the images of a split.

        Raises:
            UserError: no such data set, a damaged file, no column of images or labels, or images without a label.
        """
        data = self._load(split)
        image = self._column(data, self.image_column, ("Image",), ("image", "img", "jpg"), "data.image_column")
        label = self._column(data, self.label_column, ("ClassLabel",), ("label", "labels", "cls"), "data.label_column")
        feature = data.features[label]
        values = data.with_format("arrow").data.column(label).to_pylist() if data._indices is None else data[label]
        names = getattr(feature, "names", None)
        self._check_labels(values, names, split, label)
        if names and len(names) == IMAGENET_CLASSES:
            names = imagenet_names(names)
        classes = [names[value] for value in values] if names else [str(value) for value in values]
        paths = _file_names(data, image)
        width = len(str(len(values)))
        files = [path or f"{row:0{width}d}" for row, path in enumerate(paths)]
        return sorted_catalog(files, classes, base=f"{self.name}/{split or 'data'}", source=RowSource(data, image))

    def _load(self, split: str | None) -> Any:
        datasets = import_datasets()
        if (self.root / "dataset_dict.json").is_file():
            return self._read(lambda root: datasets.load_from_disk(f"{root}/{split}"))
        if (self.root / "state.json").is_file():
            return self._read(datasets.load_from_disk)
        if self.root.is_dir():
            patterns = self._read(datasets.data_files.get_data_patterns)[split]
            options = {"data_files": {split: list(map(str, patterns))}, "split": split}  # of this split only
            return self._read(lambda root: datasets.load_dataset("parquet", data_dir=root, **options))
        return self._hub(lambda: datasets.load_dataset(self.name, split=split))

    def _check_labels(self, values: list, names: list[str] | None, split: str | None, column: str) -> None:
        """Raise a UserError if an image has no label: None, or -1 as in test splits on the Hub."""
        known = range(len(names)) if names else None
        without = [value for value in values if value is None or (known is not None and value not in known)]
        if without:
            of_split = f", split {split}" if split else ""
            raise UserError(
                f"{self.name}{of_split}: {len(without):,} of {len(values):,} images have no label "
                f"({column}={without[0]}); choose another split with data.split=NAME, or set data.label_column=NAME"
            )

    def _read(self, call: Callable[[str], T]) -> T:
        """Return the result of `call` with the root folder; missing or damaged files become a UserError."""
        try:
            return call(str(self.root))
        except Exception as error:  # of pyarrow and datasets
            cause = error.__cause__ or error
            if isinstance(cause, MemoryError) or getattr(cause, "errno", None) not in (None, errno.ENOENT):
                raise  # a fault of the machine
            text = " ".join(str(cause).split()).rstrip(".")[:200]
            raise UserError(
                f"data.root={self.name} cannot be read as a data set of Hugging Face ({text}); it needs parquet files, "
                "or the folder that save_to_disk wrote; compare damaged files with the source, and copy them again"
            ) from error

    def _hub(self, call: Any) -> Any:
        try:
            return call()
        except Exception as error:  # of the network, the Hub or the data set's own files
            text = " ".join(str(error).split())[:200]
            raise UserError(
                f"data.root={self.name} is not a folder, and no such data set can be loaded from the Hugging Face Hub "
                f"({type(error).__name__}: {text})"
            ) from error

    def _column(self, data: Any, wanted: str | None, kinds: tuple, usual: tuple, setting: str) -> str:
        features = data.features
        if wanted is not None:
            if wanted in features:
                return wanted
            raise UserError(f"{setting}={wanted} is not in {self.name}; it has {first_named(features)}")
        typed = [name for name, feature in features.items() if type(feature).__name__ in kinds]
        found = next(iter([*typed, *(name for name in usual if name in features)]), None)
        if found is None:
            raise UserError(f"{self.name} has the columns {first_named(features)}; set {setting}=NAME")
        return found


class RowSource:
    """Encoded images in rows of a data set."""

    def __init__(self, data: Any, column: str, rows: np.ndarray | None = None) -> None:
        datasets = import_datasets()
        undecoded = isinstance(data.features[column], datasets.Image)
        self.data = data.select_columns([column])
        if undecoded:
            self.data = self.data.cast_column(column, datasets.Image(decode=False))
        self.column = column
        self.rows = np.arange(len(data)) if rows is None else rows

    def open(self, index: int) -> str | bytes:
        """Return the content of the image at `index`, or its path if the data set has paths."""
        value = self.data[int(self.rows[index])][self.column]
        if isinstance(value, dict):
            return value["bytes"] if value.get("bytes") is not None else value["path"]
        return value

    def select(self, indices: np.ndarray) -> "RowSource":
        """Return the source of the images at `indices`."""
        return RowSource(self.data, self.column, self.rows[np.asarray(indices, np.int64)])

    def storage_order(self) -> np.ndarray:
        """Indices by row."""
        return np.argsort(self.rows, kind="stable")


def imagenet_names(names: list[str]) -> list[str]:
    """WordNet numbers instead of ImageNet's 1000 classes in words, which copies spell in different ways.

    The order of the labels is that of the WordNet numbers in every copy; a sample of unambiguous words confirms it.
    """
    numbers = imagenet_numbers()
    if names == numbers:
        return names
    agree = sum(words_to_number(name) == number for name, number in zip(names, numbers, strict=True))
    return numbers if agree > len(numbers) // 2 else names


def _file_names(data: Any, column: str) -> list[str | None]:
    """File name of each row's image, if the data set has it; images are not read."""
    if data._indices is not None:
        data = data.flatten_indices()
    names: list[str | None] = []
    for chunk in data.data.column(column).chunks:
        has_path = chunk.type.num_fields and chunk.type.get_field_index("path") >= 0
        paths = chunk.field("path").to_pylist() if has_path else [None] * len(chunk)
        names += [Path(path).name if path else None for path in paths]
    return names


def import_datasets() -> Any:
    """The package `datasets`.

    Raises:
        UserError: it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError("data of Hugging Face needs the package datasets: pip install 'dat-train[hf]'") from error
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets
