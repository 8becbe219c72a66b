"""ImageNet-1K in folders, with checks for common mistakes."""

from pathlib import Path

from dat_train.data.catalog import Catalog
from dat_train.data.folders import FolderStorage, hint, scan
from dat_train.data.image_files import has_images
from dat_train.errors import UserError

CLASSES = 1000


class ImageNetFolders(FolderStorage):
    """ImageNet-1K in class folders below train/ and val/."""

    def splits(self) -> list[str]:
        names = super().splits()
        if not names:
            raise UserError(f"{self.root} has no train/ or val/ with one folder for each class{hint(self.root)}")
        return names

    def open(self, split: str | None) -> Catalog:
        """Return the images of a split.

        Raises:
            UserError: images that are not in class folders, or another number of classes than 1,000 in training.
        """
        folder = self.root / split if split else self.root
        if has_images(folder):
            raise UserError(
                f"the images in {folder} are not sorted into class folders: "
                f"python scripts/data/sort_imagenet_val.py {folder} LABELS"
            )
        return scan(folder, lambda classes: self._check(classes, folder))

    def _check(self, classes: list[str], folder: Path) -> None:
        if len(classes) != CLASSES and folder.name.lower().startswith("train"):
            raise UserError(
                f"{folder} has {len(classes)} class folders, ImageNet-1K has {CLASSES}; for other data use data=folder"
            )
