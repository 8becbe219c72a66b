"""Reading checkpoint and weights files, with verification of their checksum.

`Checkpoint.open` is the only reader in the package. No code in a file is executed: pickles are read with torch's
`weights_only=True`, and the pickled `yacs` configuration of a released checkpoint becomes a plain dictionary. Files
written by dat-train have the SHA-256 of their content in the comment of the zip archive; it is verified on every read.
"""

import hashlib
import json
import pickle
import re
import warnings
from argparse import Namespace
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dat_train.errors import UserError
from dat_train.models.weights.foreign_files import foreign_kind, is_safetensors
from dat_train.models.weights.published_weights import SCHEME, published_file, require_published
from dat_train.models.weights.state_layouts import States, select_states
from dat_train.models.weights.weights_file import FILES, weights_file

TIMM_SCHEME = "timm:"  # timm:MODEL is a source of weights, as published:MODEL

MARK = b"dat-train sha256 "
COMMENT_BYTES = len(MARK) + 64  # the mark and 64 hexadecimal digits
END_RECORD = b"PK\x05\x06"  # start of a zip archive's end record: 22 bytes, the last two are the length of the comment
END_RECORD_BYTES = 22
TAIL_BYTES = 256  # of a file, searched for the end record and our comment
CHUNK = 1 << 20

# Classes that training programs pickle next to weights and that contain data only: the `config` of released checkpoints
# (read as an ordered dictionary), arguments of scripts, Lightning's hyper-parameters.
_PLAIN_CLASSES = [
    (OrderedDict, "yacs.config.CfgNode"),
    Namespace,
    (OrderedDict, "lightning_fabric.utilities.data.AttributeDict"),
    (OrderedDict, "lightning.fabric.utilities.data.AttributeDict"),
    (OrderedDict, "pytorch_lightning.utilities.parsing.AttributeDict"),
]


class CheckpointError(UserError):
    """A checkpoint that is missing, truncated, altered or in an unknown format."""


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint or weights file as plain data and CPU tensors.

    Attributes:
        path: the file.
        content: the dictionary in the file; for safetensors {"model": tensors}.
        verified: True if dat-train wrote the file and its checksum is correct.
        timm_config: content of timm's config.json next to the weights, or None.
    """

    path: Path
    content: dict[str, Any]
    verified: bool = False
    timm_config: dict[str, Any] | None = None

    @classmethod
    def open(cls, source: str | Path) -> "Checkpoint":
        """Read and verify a checkpoint or weights file.

        Args:
            source: a file, the folder of a run (its best checkpoint), a folder in timm's layout, timm's
                local-dir:FOLDER and hf-hub:OWNER/NAME (see `weights_file`), or published:MODEL with timm's name of a
                model, whose published weights are downloaded on the first use; or timm:MODEL for those in timm.

        Raises:
            CheckpointError: the file is missing, unreadable, truncated, altered, not a checkpoint, or contains code.
            UserError: published weights that cannot be obtained or belong to another model.
        """
        if str(source).startswith(SCHEME):
            return cls._open_published(str(source).removeprefix(SCHEME))
        if str(source).startswith(TIMM_SCHEME):
            return cls._open_timm(str(source).removeprefix(TIMM_SCHEME))
        return cls._read(weights_file(source))

    @classmethod
    def _open_published(cls, name: str) -> "Checkpoint":
        """Published weights of the model `name`, checked to be of this model."""

        def check(path: Path) -> Checkpoint:
            checkpoint = cls._read(path)
            require_published(name, path, checkpoint.states.plain or {}, checkpoint.content.get("config"))
            return checkpoint

        return check(published_file(name, check))

    @classmethod
    def _open_timm(cls, name: str) -> "Checkpoint":
        """Pretrained weights of a model in timm, from its cache or downloaded by timm."""
        try:
            model = timm.create_model(name, pretrained=True)
        except (RuntimeError, OSError, ValueError, AssertionError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise CheckpointError(f"the pretrained weights of {name} in timm cannot be loaded: {reason}") from None
        return cls(Path(f"{TIMM_SCHEME}{name}"), {"model": model.state_dict()})

    @classmethod
    def _read(cls, path: Path) -> "Checkpoint":
        """Content of a file."""
        if not path.is_file():
            kind = "is a folder without checkpoints" if path.is_dir() else "is not a regular file"
            if run := next((folder.parent for folder in sorted(path.glob("*/checkpoints"))), None):
                kind += f"; a run in it is {run}"
            raise CheckpointError(f"{path} {kind}" if path.exists() else f"{path}: no such file")
        try:
            if kind := foreign_kind(path):
                raise CheckpointError(f"{path} is {kind}")
            if is_safetensors(path):
                return cls(path, {"model": _read_safetensors(path)}, timm_config=_read_timm_config(path))
            with path.open("rb") as file:
                verified = _verify(file, path)
                file.seek(0)
                content = _read_pickle(file, path)
        except OSError as error:
            raise CheckpointError(f"checkpoint {path} cannot be read ({error.strerror or error})") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{path} contains a {type(content).__name__}, not the dictionary of a checkpoint")
        timm_config = _read_timm_config(path) if path.name in FILES else None
        return cls(path, content, verified, timm_config)

    @cached_property
    def states(self) -> States:
        """Plain and averaged weights.

        Raises:
            CheckpointError: the file contains no weights.
        """
        states = select_states(self.content)
        if states is None:
            keys = ", ".join(map(str, self.content))[:200]
            raise CheckpointError(f"{self.path} has no weights under `model` or `state_dict`; its keys: {keys}")
        return states

    @property
    def config(self) -> dict[str, Any]:
        """Configuration of the dat-train run that wrote the file; {} for other files."""
        config = self.content.get("config")
        ours = isinstance(config, dict) and isinstance(config.get("model"), dict) and "timm_name" in config["model"]
        return dict(config) if ours else {}

    @property
    def classes(self) -> list[str]:
        """Class names by label; [] if the file does not have them."""
        meta = self.content.get("meta")  # of published dense models
        published = meta.get("CLASSES") if isinstance(meta, dict) else None
        names = (self.timm_config or {}).get("label_names") or self.content.get("classes") or published
        return list(names) if isinstance(names, list | tuple) else []

    def training_state(self) -> dict[str, Any]:
        """Content for resuming a run.

        Raises:
            CheckpointError: the file was not written by dat-train, so its checksum cannot be verified.
        """
        if not self.verified:
            raise CheckpointError(f"checkpoint {self.path} was not written by dat-train; use another one")
        return self.content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}): copy it again") from None


def _read_timm_config(weights: Path) -> dict[str, Any] | None:
    """Content of timm's config.json in the folder of `weights`; None if there is none."""
    path = weights.with_name("config.json")
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}): copy it again") from None
    return config if isinstance(config, dict) and {"architecture", "pretrained_cfg"} <= config.keys() else None


def _read_pickle(file, path: Path) -> Any:
    """Object saved by torch.save, without executing code."""
    try:
        with torch.serialization.safe_globals(_PLAIN_CLASSES), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        unwanted = re.search(r"GLOBAL (\S+)|Unsupported class (\S+)", str(error))
        if unwanted:
            name = (unwanted[1] or unwanted[2]).rstrip(".")
            message = f"{path} refers to the code {name}, which weights do not need: refused, nothing was executed"
        else:
            message = f"{path} is not a checkpoint, or it is truncated or damaged: copy it again"
        raise CheckpointError(message) from None
    except Exception:  # of any kind for a damaged file; no code was executed
        raise CheckpointError(f"{path} is not a checkpoint, or it is truncated or damaged: copy it again") from None


def _verify(file, path: Path) -> bool:
    """Compare a file with the checksum in its comment.

    After a bit flip or truncation, a file still has the mark of our comment or its length in the end record. A file
    with one of them must have both, and the right checksum.

    Returns:
        False for a file without our comment, which has no checksum.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - TAIL_BYTES))
    tail = file.read()
    start = tail.rfind(END_RECORD)
    record, comment = (tail[start:][:END_RECORD_BYTES], tail[start:][END_RECORD_BYTES:]) if start >= 0 else (b"", b"")
    has_length = record[-2:] == COMMENT_BYTES.to_bytes(2, "little")
    if not (has_length or MARK in tail):
        return False
    whole = has_length and comment.startswith(MARK) and len(comment) == COMMENT_BYTES
    if not (whole and _sha256(file, size - COMMENT_BYTES) == comment[len(MARK) :]):
        raise CheckpointError(
            f"checkpoint {path} was altered or truncated after it was written (its checksum differs); use another one"
        )
    return True


def _sha256(file, body: int) -> bytes:
    """Hexadecimal SHA-256 of the archive's `body` bytes with an empty comment."""
    digest = hashlib.sha256()
    file.seek(0)
    end = body - 2  # the last two bytes are the comment's length
    for start in range(0, end, CHUNK):
        digest.update(file.read(min(CHUNK, end - start)))
    digest.update(b"\0\0")
    return digest.hexdigest().encode()
