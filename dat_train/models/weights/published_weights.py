"""Weights published by the authors of DAT and DAT++: their sources, and the local copy."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from dat_train.atomic import read_json, write_json
from dat_train.errors import UserError
from dat_train.home_folder import expand_home
from dat_train.models.weights.download import DownloadError, download, locked, sha256
from dat_train.models.weights.published_names import rename_published

VARIABLE = "DAT_TRAIN_WEIGHTS"  # a folder or URL with the files by their published names, searched first
SCHEME = "published:"  # published:MODEL is a source of weights, as timm's local-dir: and hf-hub:


@dataclass(frozen=True)
class PublishedWeights:
    """A published checkpoint for ImageNet-1K classification.

    Attributes:
        link: page of the file on the authors' server; the query ?dl=1 gives the file itself.
        file: name of the file.
        top1, top5: accuracy in percent, in the authors' logs; without top5, in their table of results.
    """

    link: str
    file: str
    top1: float
    top5: float | None = None

    @property
    def url(self) -> str:
        """Address of the file itself."""
        return f"{self.link}?dl=1"


# Source: READMEs of LeapLabTHU/DAT, versions of 2022 (DAT) and 2023 (DAT++).
_SERVER = "https://cloud.tsinghua.edu.cn/f"
PUBLISHED = {
    "dat_tiny": PublishedWeights(f"{_SERVER}/1367349deefc48efa650/", "dat_tiny_in1k_224.pth", 82.034, 95.850),
    "dat_small": PublishedWeights(f"{_SERVER}/f04b18081e3e4606adb7/", "dat_small_in1k_224.pth", 83.686, 96.392),
    "dat_base": PublishedWeights(f"{_SERVER}/a8d2a9645d454120b635/", "dat_base_in1k_224.pth", 84.028, 96.686),
    "dat_base_384": PublishedWeights(f"{_SERVER}/cf6a6b543cd64e0d8e43/", "dat_base_in1k_384.pth", 84.754, 96.982),
    "datpp_tiny": PublishedWeights(f"{_SERVER}/14c5ddae10b642e68089/", "dat_pp_tiny_in1k_224.pth", 83.864, 96.734),
    "datpp_small": PublishedWeights(f"{_SERVER}/4c2a76360c964fbd81d5/", "dat_pp_small_in1k_224.pth", 84.6),
    "datpp_base": PublishedWeights(f"{_SERVER}/8e30492404d348d89f25/", "dat_pp_base_in1k_224.pth", 84.9),
    "datpp_base_384": PublishedWeights(f"{_SERVER}/032dc804cdf44bf18bb5/", "dat_pp_base_in1k_384.pth", 85.9),
}


def cache_folder() -> Path:
    """Folder of downloaded weights: that of torch.hub, below TORCH_HOME."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def published_file(name: str, check: Callable[[Path], None] = lambda path: None) -> Path:
    """File with the published weights of a model; downloaded on the first use, verified on later ones.

    Sources in this order: the folder in DAT_TRAIN_WEIGHTS, the cache of torch.hub, the URL in DAT_TRAIN_WEIGHTS, the
    authors' server.

    Args:
        name: timm name of the model, as "dat_tiny".
        check: called with the path of a downloaded file before it is kept; raises UserError if it is unsuitable.

    Raises:
        UserError: no weights are published for the model; the file cannot be obtained, is not what `check` accepts, or
            was altered since it was downloaded.
    """
    if name not in PUBLISHED:
        raise UserError(f"no published weights for {name}; there are some for {', '.join(PUBLISHED)}")
    published, folder = PUBLISHED[name], cache_folder()
    place = os.environ.get(VARIABLE, "")
    is_url = place.startswith(("http://", "https://"))
    if place and not is_url and (file := expand_home(place) / published.file).is_file():
        return file
    if file := _cached(folder, published):
        return file
    urls = [f"{place.rstrip('/')}/{published.file}"] if is_url else []
    reasons = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f".{published.file}.lock"):
            if file := _cached(folder, published):  # another process was faster
                return file
            for url in [*urls, published.url]:
                print(f"downloading the published weights of {name} from {url}", file=sys.stderr)
                try:
                    file = download(url, folder, published.file, check)
                except DownloadError as error:
                    reasons.append(f"{url}: {error}")
                else:
                    _record(folder, published, file)
                    return file
    except OSError as error:
        reasons.append(f"{folder} cannot be written: {error.strerror}; TORCH_HOME=FOLDER chooses another")
    raise UserError(
        f"the published weights of {name} cannot be downloaded ({'; '.join(reasons)}): open {published.link} in a "
        f"browser and put the file into {folder} as {published.file}, or set {VARIABLE} to a folder or URL that has it"
    )


def require_published(name: str, path: Path, state: dict[str, Tensor], config: Any) -> None:
    """Check names, shapes and input size of weights that should be the published ones of a model.

    Args:
        path: file of the weights, for messages.
        state: weights by published or our names.
        config: configuration in the file, which some released files have.

    Raises:
        UserError: parameters, shapes or input size differ from those of the model.
    """
    with torch.device("meta"):
        model = timm.create_model(name)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in rename_published(state).items()}
    other = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if other:
        key = other[0]
        raise UserError(
            f"{path} does not hold the published weights of {name} ({len(other)} parameters differ: {key} is "
            f"{found.get(key, 'missing')} instead of {wanted.get(key, 'missing')}); they are at {PUBLISHED[name].link}"
        )
    data = config.get("DATA") if isinstance(config, dict) else None
    size = data.get("IMG_SIZE") if isinstance(data, dict) else None
    if size not in (None, model.pretrained_cfg["input_size"][-1]):
        raise UserError(
            f"{path} does not hold the published weights of {name}: it is for {size} pixels; they are at "
            f"{PUBLISHED[name].link}"
        )


def _record_file(folder: Path, published: PublishedWeights) -> Path:
    return folder / f"{published.file}.json"


def _record(folder: Path, published: PublishedWeights, file: Path) -> None:
    """Keep the name and checksum of a file next to it, because the authors publish no checksums."""
    write_json(_record_file(folder, published), {"file": file.name, "sha256": sha256(file)})


def _cached(folder: Path, published: PublishedWeights) -> Path | None:
    """The file downloaded earlier, or put there by hand; None if there is none.

    Raises:
        UserError: the file is not the one that was downloaded.
    """
    record = read_json(_record_file(folder, published))
    known = isinstance(record, dict) and {"file", "sha256"} <= record.keys()
    file = folder / (Path(record["file"]).name if known else published.file)
    if not file.is_file():
        return None
    if not known:
        _record(folder, published, file)
    elif sha256(file) != record["sha256"]:
        raise UserError(
            f"{file} was altered since it was downloaded (its checksum differs): remove it to download it again, or "
            f"remove {_record_file(folder, published).name} next to it to use it"
        )
    return file
