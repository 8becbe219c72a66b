"""Parts of segmentation and detection sets for `check_images`: masks and objects are compared with their image."""

from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from dat_train.choices import SEGMENTATION_KINDS
from dat_train.data.sample_list import SampleList
from dat_train.data.scenes.coco import CocoFile, check_size, decode_segmentation, open_coco
from dat_train.data.scenes.dense_transforms import IGNORED
from dat_train.data.scenes.segmentation_dataset import SegmentationImages
from dat_train.data.scenes.segmentation_sources import open_segmentation
from dat_train.errors import UserError


class CheckedMasks:
    """Images with label maps.

    Attributes:
        samples: (path, 0) pairs.
        notes: information for the user, one line each.
        unit: of the amounts of classes.
    """

    unit = "pixels"

    def __init__(self, images: SegmentationImages) -> None:
        self.images = images
        self.samples, self.classes, self.notes = images.samples, images.classes, images.notes

    def __len__(self) -> int:
        return len(self.samples)

    def amounts(self, index: int, image: Image.Image) -> Counter[int]:
        """Pixels of each class that occurs in the label map of an image.

        Raises:
            UnreadableImage: the mask cannot be read.
            UserError: the mask does not fit the image or the classes.
        """
        counts = Counter(self.images.labels_of(index, image).ravel().tolist())
        del counts[IGNORED]
        return counts


class CheckedObjects:
    """Images of an annotation file; attributes as in `CheckedMasks`."""

    unit = "objects"

    def __init__(self, folder: Path, file: CocoFile) -> None:
        self.file = file
        self.samples = SampleList((str(folder / record["file_name"]), 0) for record in file.images)
        self.classes = file.classes
        self.notes = file.notes()

    def __len__(self) -> int:
        return len(self.samples)

    def amounts(self, index: int, image: Image.Image) -> Counter[int]:
        """Number of objects to train on of each class in an image.

        Raises:
            UserError: the image does not have the size in its record, or a mask cannot be decoded.
        """
        record, size = self.file.images[index], (image.height, image.width)
        check_size(self.samples[index][0], size, record)
        for annotation in self.file.objects.get(record["id"], []):
            if annotation.get("segmentation"):
                try:
                    decode_segmentation(annotation["segmentation"], *size)
                except UserError as error:
                    raise UserError(f"annotation {annotation.get('id')}: {error}") from None
        return Counter(self.file.usable(record).labels.tolist())


def open_scene_parts(kind: str, root: str, **options: Any) -> dict[str, CheckedMasks | CheckedObjects]:
    """Training and validation part of a segmentation or detection set; scenes for both tasks as label maps.

    Args:
        options: classes, val_fraction and split_seed of `open_segmentation`.

    Raises:
        UserError: a folder or an annotation file that is not as described.
    """
    if kind in SEGMENTATION_KINDS:
        parts = [CheckedMasks(images) for images in open_segmentation(kind, root, check=False, **options)]
    else:
        parts = [CheckedObjects(folder, file) for folder, file in open_coco(kind, root)]
    return dict(zip(("train", "val"), parts, strict=True))
