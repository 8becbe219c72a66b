"""Downloads that are resumed after a broken connection and get their final name only when they are complete."""

import contextlib
import errno
import hashlib
import http.client
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from torch.hub import tqdm

from dat_train.atomic import read_json, sync_folder, write_json
from dat_train.errors import UserError
from dat_train.models.weights.foreign_files import foreign_kind

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without data
ATTEMPTS = 5  # consecutive connections without new data before giving up
PAUSE = 1.0  # seconds before another attempt


class DownloadError(UserError):
    """A file that cannot be downloaded, for a reason in a few words."""


def download(url: str, folder: Path, name: str, check: Callable[[Path], None] = lambda path: None) -> Path:
    """Download a file into `folder`, once.

    Data are appended to .NAME.part; the caller excludes other processes with `locked`. A broken download, also of an
    earlier process, is resumed with an HTTP range if the file on the server is still the same. The complete file is
    checked and renamed.

    Args:
        url: address; redirects are followed.
        name: file name, if the server does not propose one (Content-Disposition).
        check: called with the path of the complete file; raises UserError if it is unsuitable.

    Returns:
        Path of the file.

    Raises:
        DownloadError: the server cannot be reached, has no such file, sends a web page or a file that `check` refuses
            (which is removed), or the disk is full.
    """
    part = folder / f".{name}.part"
    try:
        final = _fetch(url, part, name)
        if kind := foreign_kind(part):
            _remove(part)
            raise DownloadError(f"the server sent {kind}")
        try:
            check(part)
        except UserError as error:
            _remove(part)
            raise DownloadError(str(error).replace(str(part), final)) from None
        if (folder / final).exists():  # from another download with the same proposed name
            final = name
        part.replace(folder / final)
        _remove(part)
        sync_folder(folder)
    except OSError as error:
        if error.errno == errno.ENOSPC:  # part of a file would keep the disk full
            _remove(part)
        raise DownloadError(
            f"{folder} cannot be written ({error.strerror}); TORCH_HOME=FOLDER chooses another"
        ) from None
    return folder / final


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, part: Path, name: str) -> str:
    """Complete `part` in as many connections as needed; return the file name proposed by the server, or `name`."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _continue(url, part, name)
        except (http.client.HTTPException, urllib.error.URLError, ConnectionError, TimeoutError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                raise DownloadError(f"HTTP {error.code} {error.reason}") from None
            failures = 0 if _size(part) > before else failures + 1
            if failures == ATTEMPTS or _is_final(error):
                raise DownloadError(_reason(error)) from None
        time.sleep(PAUSE)


def _continue(url: str, part: Path, name: str) -> str:
    """Append the bytes of one connection to `part`; return the file name as `_fetch` does."""
    start, known = _size(part), read_json(_notes(part)) or {}
    request = urllib.request.Request(url, headers={"User-Agent": "dat-train"})
    if start and known.get("validator"):
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", known["validator"])
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        if start == known.get("size"):
            return known.get("name", name)
        _remove(part)  # part of another version of the file
        raise ConnectionError("the server's file has changed") from None
    with response:
        if response.headers.get_content_type() == "text/html":
            raise DownloadError("the server sent a web page (HTML), perhaps a login, instead of the file")
        start = start if response.status == http.client.PARTIAL_CONTENT else 0
        length = response.headers.get("Content-Length")
        size = start + int(length) if length is not None else None
        final = _safe_name(response.headers.get_filename(), name)
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if size is not None and size - start > shutil.disk_usage(part.parent).free:
            raise OSError(errno.ENOSPC, f"no room for {(size - start) / 1e6:,.0f} MB")
        write_json(_notes(part), {"validator": validator, "size": size, "name": final})
        with part.open("ab" if start else "wb") as file, _bar(final, start, size) as bar:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    if size is not None and _size(part) < size:
        raise ConnectionError(f"the connection broke after {_size(part):,} of {size:,} bytes")
    return final


def _bar(name: str, start: int, size: int | None):
    """Progress bar on standard error, if that is a terminal."""
    return tqdm(
        total=size,
        initial=start,
        desc=name,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=not sys.stderr.isatty(),
    )


def _safe_name(proposed: str | None, name: str) -> str:
    """The server's file name without folders; `name` if it proposes none, or a hidden one."""
    plain = re.split(r"[/\\]", proposed or "")[-1].strip()
    return plain if plain and not plain.startswith(".") and plain.isprintable() else name


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _notes(part: Path) -> Path:
    """File with the server's validator, size and name of a partial download."""
    return part.with_name(f"{part.name}.json")


def _remove(part: Path) -> None:
    for path in (part, _notes(part)):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _is_final(error: Exception) -> bool:
    """True for errors that another attempt cannot fix: no such host, connection refused, a certificate."""
    reason = getattr(error, "reason", error)
    return isinstance(error, urllib.error.URLError) and not isinstance(reason, TimeoutError | ConnectionResetError)


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return " ".join(str(getattr(reason, "strerror", None) or reason or type(error).__name__).split())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that only one process downloads a file. No effect on systems without file locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with path.open("w") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield
