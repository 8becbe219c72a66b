"""Output files of the commands: default folders, names, and errors of the file system in one line."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dat_train.errors import UserError


def output_folder(output: str | None, ckpt: Path, name: str) -> Path:
    """`output` if it is set; else NAME/ in the run's folder if the checkpoint belongs to a run; else ./NAME."""
    if output:
        return Path(output)
    folder = ckpt.resolve().parent
    of_run = folder.name == "checkpoints" and (folder.parent / "config.yaml").is_file()
    return ckpt.parent.parent / name if of_run else Path(name)


@contextmanager
def output_errors(output: str | Path, kind: str = "FOLDER") -> Iterator[None]:
    """Convert an OSError of the block into a one-line error.

    Args:
        output: file or folder that the block writes.
        kind: value of the setting `output` in the message.

    Raises:
        UserError: `output` is not writable.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"output={output} cannot be written ({error.strerror or error}); set output={kind}") from error


def folder_names(paths: Sequence[str]) -> list[str]:
    """Folder name for the results of each image: its file name without extension; equal names are numbered."""
    names: dict[str, None] = {}
    for path in paths:
        name, number = Path(path).stem, 1
        while name in names:
            number += 1
            name = f"{Path(path).stem}-{number}"
        names[name] = None
    return list(names)
