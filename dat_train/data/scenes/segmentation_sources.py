"""Segmentation sets on disk: ADE20K as published, own images with masks, digit scenes."""

import contextlib
import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dat_train.choices import SEGMENTATION_KINDS
from dat_train.data.generated.digit_scenes import write_digit_scenes
from dat_train.data.generated.nuclei import write_nuclei
from dat_train.data.images import UnreadableImage, printable
from dat_train.data.randomness import keyed_seed
from dat_train.data.reading.image_files import LeftOut, first_named, is_folder, is_image, is_system, suffix_list
from dat_train.data.scenes.ade20k_classes import ADE20K_CLASSES
from dat_train.data.scenes.dense_transforms import IGNORED
from dat_train.data.scenes.segmentation_dataset import LabelEncoding, SegmentationImages
from dat_train.data.storages.folders import existing_folder
from dat_train.errors import UserError, require_one_of
from dat_train.home_folder import expand_home

PARTS = ("train", "val")
ADE20K_FOLDERS = {"train": "training", "val": "validation"}
CHECKED = 8  # number of masks that are read on opening, evenly spaced in the set


def open_segmentation(
    kind: str,
    root: str | None,
    *,
    classes: str | None = None,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    parts: Sequence[str] = PARTS,
    check: bool = True,
) -> list[SegmentationImages]:
    """Sets of the parts, without transforms.

    Args:
        kind: one of SEGMENTATION_KINDS.
        root: folder.
        classes: of kind "masks": file with one class name a line, in the order of the mask values; None:
            classes.txt in `root`.
        val_fraction, split_seed: of kind "masks" without train and val folders.
        parts: "train", "val" or both; only these are read.
        check: read some images and masks.

    Raises:
        UserError: unknown kind, or a folder or mask that is not as described.
    """
    require_one_of("task=segmentation needs other data: data.kind", kind, SEGMENTATION_KINDS)
    if root is None:
        raise UserError(f"data.root is not set: data={kind} needs data.root=PATH")
    if kind == "ade20k":
        sets = _open_ade20k(Path(root), parts)
    else:
        if kind == "digit_scenes":
            write_digit_scenes(root)
        if kind == "nuclei":
            write_nuclei(root, split_seed)
        sets = _open_masks(Path(root), classes, parts, val_fraction=val_fraction, split_seed=split_seed)
    for images in sets if check else ():
        _check_some(images)
    return sets


def _check_some(images: SegmentationImages) -> None:
    """Read some images and masks, evenly spaced; unreadable ones are ignored, because the run counts them.

    Raises:
        UserError: a mask that does not fit its image or the classes; masks of one class and ignored pixels.
    """
    found: set[int] = set()
    for i in range(0, len(images), max(1, len(images) // CHECKED)):
        with contextlib.suppress(UnreadableImage):
            found |= set(np.unique(images.read_both(i)[1]).tolist())
    if found == {0, IGNORED}:
        raise UserError(
            f"the masks of {printable(Path(images.masks[0][0]).parent)} have the values 0 and 255 alone, and 255 is "
            f"ignored: write the number of the class, 1 to {len(images.classes) - 1}, instead of 255"
        )


def _open_ade20k(root: Path, parts: Sequence[str]) -> list[SegmentationImages]:
    """ADEChallengeData2016: value 0 is ignored, 1 to 150 are the classes; no other values."""
    root = existing_folder(root)
    if not (root / "annotations").is_dir() and (root / "ADEChallengeData2016").is_dir():
        root = root / "ADEChallengeData2016"
    folders = [ADE20K_FOLDERS[part] for part in parts]
    missing = [folder for folder in folders if not (root / "annotations" / folder).is_dir()]
    if missing:
        raise UserError(
            f"{root} has no annotations/{missing[0]}: data=ade20k needs ADEChallengeData2016 with images/ and "
            "annotations/ (the full ADE20K release is laid out and encoded differently)"
        )
    encoding = LabelEncoding(first=1, classes=len(ADE20K_CLASSES), ignores_255=False)
    found = [_pairs(root / "images" / folder, root / "annotations" / folder) for folder in folders]
    return [SegmentationImages(pairs, ADE20K_CLASSES, encoding, notes=notes) for pairs, notes in found]


def _open_masks(
    root: Path, classes: str | None, parts: Sequence[str], *, val_fraction: float, split_seed: int
) -> list[SegmentationImages]:
    """images/ and masks/ with equal stems, with or without train/ and val/; value k is line k of the class list."""
    root = existing_folder(root)
    path = expand_home(classes) if classes else root / "classes.txt"
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: data=masks needs a class list, one name a line, in the order of the values"
        )
    names = _read_classes(path)
    encoding = LabelEncoding(first=0, classes=len(names))
    if any((root / "images" / part).is_dir() for part in PARTS):
        of_parts = {part: _pairs(root / "images" / part, root / "masks" / part) for part in parts}
    else:
        pairs, notes = _pairs(root / "images", root / "masks")
        random.Random(keyed_seed("split", split_seed)).shuffle(pairs)
        held_out = min(max(1, round(len(pairs) * val_fraction)), len(pairs) - 1)
        if held_out < 1:
            raise UserError(f"{root}/images has {len(pairs)} image: at least two are needed, one of them to validate")
        of_parts = {"train": (sorted(pairs[held_out:]), notes), "val": (sorted(pairs[:held_out]), notes)}
    chosen = [of_parts[part] for part in parts]
    return [SegmentationImages(of_part, names, encoding, notes=notes) for of_part, notes in chosen]


def _read_classes(path: Path) -> list[str]:
    """Class names of a text file, in the order of the mask values.

    Raises:
        UserError: not UTF-8, a line without a name, equal names, or fewer than 2 or more than 255.
    """
    try:
        names = [line.strip() for line in path.read_bytes().decode("utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error
    if "" in names:
        raise UserError(f"{path}, line {names.index('') + 1}: no name; each line names the next value of the masks")
    if not 2 <= len(names) <= 255 or len(set(names)) < len(names):
        raise UserError(
            f"{path} has {len(names)} names ({len(set(names))} different): 2 to 255 different ones are needed"
        )
    return names


def _pairs(images: Path, masks: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """(image, mask) of every image in a folder, sorted, and notes; the mask is the PNG of the same stem.

    Raises:
        UserError: a missing folder, no images, an image without a mask.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise UserError(f"{folder} does not exist: images and masks must be in folders of the same name")
    found, notes = _images_in(images)
    if not found:
        raise UserError(f"{images} has no images ({suffix_list()}, ...)")
    available = {path.stem: str(path) for path in sorted(masks.iterdir()) if path.suffix.lower() == ".png"}
    missing = [path for path in found if path.stem not in available]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(found)} images have no mask: {printable(masks / missing[0].stem)}.png does not "
            "exist"
        )
    return [(str(path), available[path.stem]) for path in found], notes


def _images_in(folder: Path) -> tuple[list[Path], list[str]]:
    """Images directly in a folder, sorted, and notes on everything else in it."""
    left_out, folders, found = LeftOut(), [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_system(entry.name):
                continue
            if is_folder(entry):
                folders.append(entry.name)
            elif is_image(entry.name):
                found.append(folder / entry.name)
            else:
                left_out.add_entry(entry)
    notes = left_out.notes(str(folder))
    if folders:
        notes.append(f"{folder}: folders, not used: {first_named(map(printable, sorted(folders)))}")
    return sorted(found), notes
