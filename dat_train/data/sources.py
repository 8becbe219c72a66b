"""Where images come from, by kind."""

from dat_train.data.dataset import ImageDataset
from dat_train.data.digits import write_digits
from dat_train.data.fake import FakeImages
from dat_train.data.folders import open_folders
from dat_train.data.imagenet import open_imagenet
from dat_train.data.imagenet_tests import TEST_SETS, open_test_set
from dat_train.errors import UserError

KINDS = ("digits", "folder", "imagenet", "fake", *TEST_SETS)


def open_datasets(
    kind: str,
    root: str | None = None,
    *,
    image_size: int = 224,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    fake_images: int = 10_000,
    fake_classes: int = 1000,
) -> tuple[ImageDataset, ImageDataset]:
    """Training and validation set, without transforms yet; of a set to test on, the training set is empty.

    Args:
        kind: one of KINDS.
        root: folder of the images; digits are written there first.
        image_size: of fake images.

    Raises:
        UserError: an unknown kind, or what is wrong with the folder.
    """
    if kind == "fake":
        held_out = max(1, round(fake_images * val_fraction))
        train = FakeImages(fake_images, fake_classes, image_size, part="train")
        return train, FakeImages(held_out, fake_classes, image_size, part="val", stand_in=False)
    if kind not in KINDS:
        raise UserError(f"data.kind={kind} is not possible; one of {', '.join(KINDS)}")
    if root is None:
        raise UserError(f"data.root is not set: data={kind} needs data.root=FOLDER")
    if kind in TEST_SETS:
        test_set = open_test_set(kind, root)
        return ImageDataset([], test_set.classes), test_set
    if kind == "imagenet":
        return open_imagenet(root)
    if kind == "digits":
        write_digits(root, val_fraction=val_fraction, split_seed=split_seed)
    return open_folders(root, val_fraction=val_fraction, split_seed=split_seed)
