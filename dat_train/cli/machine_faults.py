"""Faults of the machine and of environment variables, as one-line errors."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from dat_train.cli.streams import TORCHRUN
from dat_train.errors import NO_COMPILER, UserError, printable

OTHERS = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS", "WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI")
CACHES = ("TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME", "TMPDIR")
MIN_FILES, WANTED_FILES = 256, 65536  # limits of open files: minimum for data processes, and sufficient for any run
TOO_MANY_FILES = "Too many open files"  # strerror of EMFILE; also the text of PyTorch's RuntimeError
# errno values of errors about a file or folder that a command reads or writes
STORAGE_FAULTS = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EROFS, errno.ENOSPC)


def check_environment() -> None:
    """Remove empty environment variables, and refuse an environment in which no command can run.

    Raises:
        UserError: a deleted working directory, too few file descriptors, or only some of torchrun's variables.
    """
    for name in (*TORCHRUN, *OTHERS, *CACHES):
        if os.environ.get(name) == "":
            del os.environ[name]
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UserError("the working directory was deleted: cd to another folder first") from None
    limit = _raise_file_limit()
    if limit is not None and limit < MIN_FILES:
        raise UserError(f"the limit of open files is {limit}, which is too low: ulimit -n {WANTED_FILES}")
    found = [name for name in TORCHRUN if name in os.environ]
    missing = [name for name in TORCHRUN if name not in os.environ]
    if {"RANK", "WORLD_SIZE"} & set(found) and missing:
        values = ", ".join(f"{name}={os.environ[name]}" for name in found)
        raise UserError(
            f"{values} in the environment without {', '.join(missing)}: start several processes with torchrun, or one "
            f"with env {' '.join(f'-u {name}' for name in found)}"
        )


def environment_error(error: BaseException) -> str | None:
    """One-line text for an exception caused by a fault of the machine; None for any other exception."""
    for cause in _chain(error):
        text = str(cause)
        if TOO_MANY_FILES in text or "received 0 items of ancdata" in text:
            return "too many open files: ulimit -n 65536 allows more, and a smaller data.workers needs fewer"
        if _is_out_of_memory(cause):
            wanted = re.search(r"tried to allocate ([\d.]+ \w+)", text, re.IGNORECASE)
            size = f" (tried to allocate {wanted[1]})" if wanted else ""
            return (
                f"not enough memory{size}: in training, micro_batch_size=... with fewer images (batch_size stays, the "
                "gradient is accumulated); in other commands, a smaller batch_size; or a smaller img_size"
            )
        if type(cause).__name__ == "InvalidCxxCompiler" or "No working C++ compiler" in text:
            return NO_COMPILER
        if "Failed to find C compiler" in text:  # Triton
            return "compile=true needs a C compiler, and none was found: apt install gcc, or compile=false"
        if isinstance(cause, OSError) and cause.errno in STORAGE_FAULTS and cause.filename is not None:
            return f"{printable(cause.filename)}: {cause.strerror}; check the permissions and the disk"
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    """True for a failed allocation on a GPU or in the main memory, by PyTorch, NumPy or Python."""
    texts = ("can't allocate memory", "DefaultCPUAllocator: not enough memory", "MPS backend out of memory")
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and "Cannot allocate memory" in str(error))  # ENOMEM, also in a data worker
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(text in str(error) for text in texts))
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _raise_file_limit() -> int | None:
    """Raise the limit of open files as far as the system allows, and return it; None if there is no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return None if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS has a lower limit than it reports
        return soft
    return wanted
