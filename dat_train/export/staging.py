"""Files and folders that get their final name only when they are complete."""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

EXPORTED = (  # file names of exports; an earlier export is replaced as a whole
    "README.md",
    "accuracy.json",
    "config.json",
    "model.int8.onnx",
    "model.onnx",
    "model.pt2",
    "model.safetensors",
    "preprocessing.json",
)


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, with the same suffix; it becomes `path` when the block succeeds."""
    temporary = path.with_name(f".new.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def staged_folder(folder: Path, replaceable: Collection[str]) -> Iterator[Path]:
    """Yield an empty folder, whose files replace those in `folder` when the block succeeds.

    Until then, an earlier `folder` stays complete. The new folder is written next to `folder` and renamed. If `folder`
    holds files other than `replaceable`, or cannot be renamed (the working directory, a mount point, a parent folder
    that is not writable), it is kept, and the new files replace the old ones one by one at the end.

    Args:
        folder: folder to write; parent folders are created.
        replaceable: file names of earlier results, which are removed if the new results do not include them.

    Raises:
        OSError: the folder is not writable.
    """
    folder = Path(folder).resolve()
    temporary, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("new", "old"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    if old.exists() and not folder.exists():  # interrupted between the two renames below
        old.rename(folder)
    exchange = not folder.exists() or _is_exchangeable(folder, replaceable)
    new = temporary if exchange else folder / ".new"
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        if exchange:
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            _replace_files(folder, new, replaceable)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _is_exchangeable(folder: Path, replaceable: Collection[str]) -> bool:
    """Returns False if an existing folder must stay in place."""
    return (
        {path.name for path in folder.iterdir()} <= {*replaceable, ".new"}
        and os.access(folder.parent, os.W_OK)
        and not os.path.ismount(folder)
        and folder != Path.cwd()
    )


def _replace_files(folder: Path, new: Path, replaceable: Collection[str]) -> None:
    written = sorted(new.iterdir())
    for path in written:
        path.replace(folder / path.name)
    for name in set(replaceable) - {path.name for path in written}:
        (folder / name).unlink(missing_ok=True)
