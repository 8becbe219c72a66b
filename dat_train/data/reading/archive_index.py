"""Index of images inside archives: archive, offset and size of each, created once and kept in a cache folder."""

import contextlib
import hashlib
import io
import json
import os
import posixpath
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

from dat_train.atomic import write_bytes
from dat_train.errors import UserError
from dat_train.home_folder import expand_home

VERSION = 2  # of the index files
ARCHIVES = (".tar", ".zip")
STORED, DEFLATED = 0, 8  # compression methods of zip files
GZIP = b"\x1f\x8b"  # first bytes of a compressed file
NO_FILE = -1  # offset of a link whose target is not in the archive
MAX_LINKS = 40  # links to links that are followed, as in Linux
MAX_SIDECAR = 1 << 20  # bytes of a file next to an image in a shard
MEMBERS_PER_UPDATE = 1000  # members between updates of the progress bar; tarfile's list of members is then emptied


class Member(NamedTuple):
    """File in an archive: its name, the offset of its content (of its header in a zip), and its size there."""

    name: str
    offset: int
    size: int
    method: int = STORED
    text: str = ""  # content of a small file next to an image (.cls, .json)


class ArchiveIndex(NamedTuple):
    """Members of several archives, as arrays."""

    names: list[str]  # without "./"
    archives: np.ndarray  # (members,) int32, position in the list of archives
    offsets: np.ndarray  # (members,) int64
    sizes: np.ndarray  # (members,) int64
    methods: np.ndarray  # (members,) int8
    texts: list[str]


def index_archives(paths: Sequence[Path], sidecars: Sequence[str] = ()) -> ArchiveIndex:
    """Return the files in `paths`, from the cache folder if the archives are unchanged.

    Args:
        sidecars: suffixes of small files whose content is kept as text.

    Raises:
        UserError: an archive is damaged, compressed as a whole, or encrypted.
    """
    stats = [path.stat() for path in paths]
    key = [VERSION, list(sidecars), *([str(path.resolve()), s.st_size, s.st_mtime_ns] for path, s in zip(paths, stats))]  # noqa: B905
    text = json.dumps(key)
    cached = cache_folder() / f"{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}.npz"
    found = _read(cached, text)
    if found is None:
        found = _index(paths, sidecars, sum(s.st_size for s in stats))
        with contextlib.suppress(OSError):  # without a cache folder the index is created again at the next start
            cached.parent.mkdir(parents=True, exist_ok=True)
            _write(found, cached, text)
    return found


def cache_folder() -> Path:
    """Folder of the index files: DAT_TRAIN_CACHE, or dat-train in XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("DAT_TRAIN_CACHE")
    if own:
        return expand_home(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dat-train"


def _index(paths: Sequence[Path], sidecars: Sequence[str], total: int) -> ArchiveIndex:
    members: list[tuple[int, Member]] = []
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("indexing archives (once)", total=total)
        for number, path in enumerate(paths):
            before = sum(paths[i].stat().st_size for i in range(number))
            walk = _zip_members if path.suffix.lower() == ".zip" else _tar_members
            try:
                for member in walk(path, sidecars):
                    members.append((number, member))
                    if len(members) % MEMBERS_PER_UPDATE == 0:
                        progress.update(task, completed=before + member.offset)
            except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
                raise UserError(
                    f"{path} is not a whole archive ({error}); compare its size with the source's, and copy it again"
                ) from error
    return ArchiveIndex(
        [posixpath.normpath(member.name) for _, member in members],
        np.array([number for number, _ in members], np.int32),
        offsets=np.array([member.offset for _, member in members], np.int64),
        sizes=np.array([member.size for _, member in members], np.int64),
        methods=np.array([member.method for _, member in members], np.int8),
        texts=[member.text for _, member in members],
    )


def _tar_members(path: Path, sidecars: Sequence[str]) -> Iterator[Member]:
    """Regular files of a tar file, and of the tar files inside it (ImageNet's classes) with their name as folder."""
    size = path.stat().st_size
    try:
        archive = tarfile.open(path, "r:")  # noqa: SIM115  closed below
    except tarfile.ReadError as error:
        with path.open("rb") as file:
            if file.read(2) == GZIP:
                raise UserError(f"{path} is compressed, so images cannot be read at random; gunzip it first") from error
        raise
    with archive:
        yield from _with_links(_files(archive, sidecars, size))
        with path.open("rb") as file:  # tarfile accepts a truncated file as an archive
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it has no end mark, as a file that was cut")


def _files(archive: tarfile.TarFile, sidecars: Sequence[str], size: int) -> Iterator[Member | tarfile.TarInfo]:
    """Files of a tar file and of the tar files inside it, and the headers of its links.

    Args:
        size: of the tar file.
    """
    for number, member in enumerate(archive):
        if number % MEMBERS_PER_UPDATE == 0:
            archive.members = []  # tarfile keeps every header otherwise
        if member.islnk() or member.issym():
            yield member
        if not member.isreg():
            continue
        if member.offset_data + member.size > size:
            raise tarfile.ReadError(f"{member.name} ends after the end of the file")
        if member.name.lower().endswith(".tar"):
            with tarfile.open(fileobj=archive.extractfile(member), mode="r:") as inner:
                for part in _with_links(_files(inner, (), member.size)):
                    name = f"{member.name[: -len('.tar')]}/{part.name}"
                    offset = part.offset if part.offset == NO_FILE else member.offset_data + part.offset
                    yield part._replace(name=name, offset=offset)
        elif member.size <= MAX_SIDECAR and member.name.lower().endswith(tuple(sidecars) or "\0"):
            text = archive.extractfile(member).read().decode("utf-8", "replace").replace("\0", "")
            yield Member(member.name, member.offset_data, member.size, text=text)
        else:
            yield Member(member.name, member.offset_data, member.size)


def _with_links(found: Iterator[Member | tarfile.TarInfo]) -> Iterator[Member]:
    """Yield the files, then each link as a file with the content of its target, or with the offset NO_FILE."""
    files: dict[str, Member] = {}
    links: dict[str, str] = {}
    for member in found:
        name = posixpath.normpath(member.name)
        if isinstance(member, Member):
            files[name] = member
            yield member
        else:  # the target of a hard link is a name in the archive, that of a symbolic link is relative to its folder
            folder = "" if member.islnk() else posixpath.dirname(name)
            links[name] = posixpath.normpath(posixpath.join(folder, member.linkname))
    for name, target in links.items():
        for _ in range(MAX_LINKS):
            if target in files or target not in links:
                break
            target = links[target]
        yield files[target]._replace(name=name) if target in files else Member(name, NO_FILE, 0)


def _zip_members(path: Path, _sidecars: Sequence[str]) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for item in archive.infolist():
            if item.is_dir():
                continue
            if item.flag_bits & 1:
                raise UserError(f"{path} is encrypted; unpack it first")
            if item.compress_type not in (STORED, DEFLATED):
                raise UserError(f"{path}: {item.filename} is not compressed by deflate; unpack the archive first")
            yield Member(item.filename, item.header_offset, item.compress_size, item.compress_type)


def _write(index: ArchiveIndex, path: Path, key: str) -> None:
    texts = {name: "\0".join(getattr(index, name)).encode("utf-8", "surrogateescape") for name in ("names", "texts")}
    arrays = index._asdict() | {name: np.frombuffer(text, np.uint8) for name, text in texts.items()}
    buffer = io.BytesIO()
    np.savez(buffer, key=np.array(key), **arrays)
    write_bytes(path, buffer.getvalue())


def _read(path: Path, key: str) -> ArchiveIndex | None:
    """Index in the file, or None if the file is missing, damaged, or of other archives."""
    try:
        with np.load(path, allow_pickle=False) as content:
            if str(content["key"]) != key:
                return None
            number = len(content["offsets"])
            names, texts = (
                content[name].tobytes().decode("utf-8", "surrogateescape").split("\0") if number else []
                for name in ("names", "texts")
            )
            arrays = [content[name] for name in ("archives", "offsets", "sizes", "methods")]
            whole = all(len(part) == number for part in (names, texts, *arrays))
            return ArchiveIndex(names, *arrays, texts) if whole else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
