"""Resolution of weights given by users: paths, folders of runs, timm's folders, the Hugging Face hub."""

import contextlib
from pathlib import Path

from timm.models._hub import download_from_hf

from dat_train.errors import UserError
from dat_train.home_folder import expand_home

FOLDER, HUB = "local-dir:", "hf-hub:"
FILES = ("model.safetensors", "pytorch_model.bin")  # as timm's save_for_hf names them, in order of preference
RUN_FILES = ("checkpoints/best.pt", "best.pt", "checkpoints/last.pt", "last.pt")  # in the folder of a run
EXPORTED = ("model.onnx", "model.pt2")  # of dat-export; reading them is an error that names their format


def weights_file(source: str | Path) -> Path:
    """Path of a file of weights.

    Files from the hub are downloaded once, into its cache (HF_HOME), with the config.json of their repository.

    Args:
        source: a file; the folder of a run or its checkpoints/, for the best checkpoint; a folder in timm's layout; or
            timm's local-dir:FOLDER and hf-hub:OWNER/NAME[@REVISION]. "~" is expanded.

    Returns:
        The file, or `source` as a path if it is not a folder with weights.

    Raises:
        UserError: no weights in the folder or repository, or the hub cannot be reached and its cache lacks them.
    """
    text = str(source)
    if text.startswith(FOLDER):
        folder = expand_home(text.removeprefix(FOLDER))
        for name in FILES:
            if (folder / name).is_file():
                return folder / name
        raise UserError(f"{text}: {folder} {f'has no {FILES[0]}' if folder.is_dir() else 'is not a folder'}")
    if text.startswith(HUB):
        return _from_hub(text)
    path = expand_home(source)
    return next((path / name for name in (*FILES, *RUN_FILES, *EXPORTED) if (path / name).is_file()), path)


def _from_hub(source: str) -> Path:
    for name in FILES:
        try:
            file = Path(download_from_hf(source.removeprefix(HUB), name))
            with contextlib.suppress(OSError):  # a repository may have weights only
                download_from_hf(source.removeprefix(HUB), "config.json")
            return file
        except (OSError, ValueError, AssertionError) as error:  # no such name, repository or file; no network
            reason = str(error).strip().partition("\n")[0]
    raise UserError(f"{source} has no weights that can be downloaded: {reason}")
