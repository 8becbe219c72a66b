"""Mapping of labels by class name: positions in a list differ between folders, names do not."""

import unicodedata
from collections.abc import Sequence
from functools import cache

from timm.data import ImageNetInfo

from dat_train.data.reading.image_files import first_named
from dat_train.data.storages.catalog import Catalog
from dat_train.errors import UserError

IMAGENET_CLASSES = 1000


def match_classes(catalog: Catalog, classes: Sequence[str], where: str, owner: str = "the model") -> Catalog:
    """Return `catalog` with the labels of `classes`, by name. A note reports classes that do not occur in it.

    Names are compared unchanged; if some are unknown, with composed characters (macOS may write "é" as "e" and an
    accent); then as ImageNet's classes, by WordNet number and by words ("tench, Tinca tinca").

    Args:
        classes: class names of the model or of the training set.
        where: name of the data, for messages.
        owner: of `classes`, for messages.

    Raises:
        UserError: a class of the catalog is not in `classes`.
    """
    if list(catalog.classes) == list(classes):
        return catalog
    position = {name: number for number, name in enumerate(classes)}
    names = catalog.classes
    for way in (str, composed, words_to_number):
        known_as = {way(name): number for name, number in position.items()}
        found = [way(name) for name in catalog.classes]
        if known_as.keys() >= set(found):
            position, names = known_as, found
            break
    unknown = [name for name in names if name not in position]
    if unknown:
        raise UserError(
            f"{where} has classes that {owner} does not have: {first_named(map(repr, unknown))}; {owner} has "
            f"{first_named(map(repr, classes))}"
        )
    if len(set(names)) < len(names):
        raise UserError(f"{where} has two folders of one class: {first_named(catalog.classes)}")
    matched = catalog.with_classes(classes, [position[name] for name in names])
    missing = [name for name in classes if name not in set(names)] if names == catalog.classes else []
    if len(names) < len(classes):
        absent = f" (not {first_named(missing)})" if missing else ""
        note = f"{where}: {len(names):,} of the {len(classes):,} classes of {owner} occur{absent}"
        return Catalog(**{**vars(matched), "notes": (*matched.notes, note)})
    return matched


def composed(name: str) -> str:
    """`name` with letters and accents composed (Unicode NFC), so that texts that look equal are equal."""
    return unicodedata.normalize("NFC", name)


def imagenet_numbers() -> list[str]:
    """WordNet numbers of ImageNet-1K's classes, in the order of its labels."""
    return list(ImageNetInfo().label_names())


@cache
def _numbers_by_words() -> dict[str, str]:
    """WordNet number by all words of a class and by the first ones, lower case, if no other class has them."""
    info = ImageNetInfo()
    numbers: dict[str, set[str]] = {}
    for number in info.label_names():
        words = info.label_name_to_description(number).lower()
        for name in (words, words.partition(",")[0]):
            numbers.setdefault(name, set()).add(number)
    return {name: min(of_name) for name, of_name in numbers.items() if len(of_name) == 1}


def words_to_number(name: str) -> str:
    """WordNet number of an ImageNet class in words; other names unchanged."""
    return _numbers_by_words().get(name.replace("_", " ").lower(), name)
