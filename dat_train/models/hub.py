"""Weights where timm publishes them: a folder with its configuration, or a repository of the Hugging Face hub."""

import contextlib
from pathlib import Path

from timm.models._hub import download_from_hf

from dat_train.errors import UserError

FOLDER, HUB = "local-dir:", "hf-hub:"
FILES = ("model.safetensors", "pytorch_model.bin")  # as timm's save_for_hf names them, the preferred first


def weights_file(source: str | Path) -> Path:
    """The file of weights that `source` means: a path, of the file or of a folder as timm saves models;
    local-dir:FOLDER or hf-hub:OWNER/NAME[@REVISION], as in timm.

    What comes from the hub is downloaded once, into its own cache (HF_HOME), with the config.json beside it.

    Raises:
        UserError: no weights there, or the hub cannot be reached and the cache does not have them.
    """
    text = str(source)
    if text.startswith(FOLDER):
        folder = Path(text.removeprefix(FOLDER)).expanduser()
        for name in FILES:
            if (folder / name).is_file():
                return folder / name
        raise UserError(f"{text}: {folder} {f'has no {FILES[0]}' if folder.is_dir() else 'is not a folder'}")
    if text.startswith(HUB):
        return _from_hub(text)
    saved = [Path(source) / name for name in FILES if (Path(source) / name).is_file()]
    return saved[0] if saved else Path(source)


def _from_hub(source: str) -> Path:
    for name in FILES:
        try:
            file = Path(download_from_hf(source.removeprefix(HUB), name))
            with contextlib.suppress(OSError):  # a repository may hold weights alone
                download_from_hf(source.removeprefix(HUB), "config.json")
            return file
        except (OSError, ValueError, AssertionError) as error:  # no such name, repository or file; no network
            reason = str(error).strip().partition("\n")[0]
    raise UserError(f"{source} has no weights that can be had: {reason}")
