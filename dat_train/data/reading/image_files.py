"""Image files below a folder: file name suffixes, system folders, omitted files."""

import os
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import EpsImagePlugin, Image

from dat_train.data.images import printable

# Pillow recognizes these formats but cannot decode them without further software.
UNDECODABLE = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
# Folders and files that operating systems, storage servers and archivers create next to the user's files, lower case.
SYSTEM_FOLDERS = {
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "__macosx", "lost+found", "$recycle.bin",
    "recycler", "system volume information", "__pycache__",
}  # fmt: skip
SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini"}
MAX_NAMED_SUFFIXES = 5


@cache
def image_suffixes() -> frozenset[str]:
    """File name suffixes of all formats the installed Pillow can decode, lower case, with the dot."""
    Image.init()
    left_out = UNDECODABLE if EpsImagePlugin.has_ghostscript() else UNDECODABLE | {"EPS"}
    readable = Image.OPEN.keys() - left_out
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in readable)


def suffix_list() -> str:
    """The most common suffixes, for messages."""
    common = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".bmp", ".gif")
    return ", ".join(suffix for suffix in common if suffix in image_suffixes())


def is_image(name: str) -> bool:
    """Return True if a file of this name or path counts as an image. Hidden files (macOS' ._photo.jpg) do not."""
    stem, _, suffix = name.rpartition("/")[2].rpartition(".")
    return bool(stem) and stem[0] != "." and f".{suffix.lower()}" in image_suffixes()


def is_system(name: str) -> bool:
    """Return True for hidden files and folders and those of SYSTEM_FOLDERS and SYSTEM_FILES."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS or name.lower() in SYSTEM_FILES


class LeftOut:
    """Counts of files that are not used, by kind, and their description."""

    def __init__(self) -> None:
        self.suffixes: Counter[str] = Counter()
        self.loose = 0
        self.special = 0
        self.broken: list[str] = []

    def add(self, name: str) -> None:
        """Count a file by its suffix, unless it is a system file."""
        if not is_system(name):
            self.suffixes[Path(name).suffix.lower() or "no suffix"] += 1

    def add_entry(self, entry: os.DirEntry) -> None:
        """Count a file that is not an image, or name a broken link, which may have been a folder."""
        if is_broken_link(entry):
            self.broken.append(entry.name)
        else:
            self.add(entry.name)

    def notes(self, where: str) -> list[str]:
        """One line for each kind of omitted files in the folder `where`."""
        notes = []
        if self.suffixes:
            kinds = [f"{count:,} {suffix}" for suffix, count in self.suffixes.most_common(MAX_NAMED_SUFFIXES)]
            more = ", ..." if len(self.suffixes) > MAX_NAMED_SUFFIXES else ""
            notes.append(f"{where}: files that are not images: {self.suffixes.total():,} ({', '.join(kinds)}{more})")
        if self.loose:
            notes.append(f"{where}: images outside the class folders, not used: {self.loose:,}")
        if self.special:
            notes.append(f"{where}: {self.special:,} entries that are not regular files (FIFO, socket, device)")
        if self.broken:
            notes.append(f"{where}: broken links, not used: {first_named(map(printable, self.broken))}")
        return notes


def image_paths(folder: str | Path, left_out: LeftOut | None = None) -> list[str]:
    """Paths of all images below `folder`, sorted as text.

    Links are followed, but no folder is entered twice. A broken link to an image is listed, so that reading reports it.

    Args:
        left_out: counts files that are not images.
    """
    left_out = left_out or LeftOut()
    found: list[str] = []
    seen = {os.path.realpath(folder)}  # a link to a parent folder would be followed forever
    pending = [str(folder)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if is_system(entry.name):
                    continue
                if is_folder(entry):
                    real = os.path.realpath(entry.path)
                    if real not in seen:
                        seen.add(real)
                        pending.append(entry.path)
                elif not is_image(entry.name):
                    left_out.add_entry(entry)
                elif is_broken_link(entry) or entry.is_file():
                    found.append(entry.path)
                else:
                    left_out.special += 1
    return sorted(found)


def is_folder(entry: os.DirEntry) -> bool:
    """Return True for a folder or a link to one; False for a link to itself, which is a broken link."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_broken_link(entry: os.DirEntry) -> bool:
    """Return True for a link to a file that does not exist."""
    return entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110  of an entry


def subfolders(folder: str | Path) -> list[str]:
    """Names of the folders in `folder`, sorted as text, without hidden and system folders."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_folder(entry) and not is_system(entry.name))


def count_other_files(folder: str | Path, left_out: LeftOut) -> None:
    """Count the files directly in `folder`, where only class folders are expected."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_folder(entry) or is_system(entry.name):
                continue
            if is_image(entry.name):
                left_out.loose += 1
            else:
                left_out.add_entry(entry)


def has_images(folder: str | Path) -> bool:
    """Return True if `folder` itself contains an image."""
    with os.scandir(folder) as entries:
        return any(is_image(entry.name) and not is_folder(entry) for entry in entries)


def first_named(names: Iterable[str], number: int = 5) -> str:
    """The first few names for a message: "a, b, c, ... (12)"."""
    names = list(names)
    more = f", ... ({len(names):,})" if len(names) > number else ""
    return ", ".join(names[:number]) + more
