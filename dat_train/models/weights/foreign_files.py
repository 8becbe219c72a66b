"""Detection of files that are given as weights but have another format."""

import zipfile
from pathlib import Path

HEAD_BYTES = 512
_PROGRAM = "; it contains a program for inference, not a checkpoint: give the checkpoint it was exported from"
_BEGINNINGS = (  # first bytes -> format and advice for the error message
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: run `git lfs pull` where it came from"),
    (b"\x93NUMPY", "a NumPy array: save the weights with torch.save or safetensors"),
    (b"\x89HDF", "an HDF5 file (Keras): convert it to PyTorch weights first"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
)
_ARCHIVES = (  # part of a name inside a zip archive -> format and advice for the error message
    ("serialized_exported_program.json", f"a program of torch.export{_PROGRAM}"),
    ("models/model.json", f"a program of torch.export{_PROGRAM}"),
    ("/constants.pkl", f"a TorchScript program{_PROGRAM}"),
    (".npy", "an archive of NumPy arrays: save the weights with torch.save or safetensors"),
)


def foreign_kind(path: Path) -> str | None:
    """Format of a file that cannot be read as weights, with advice for the user; None for other files.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return (
            "a web page (HTML), perhaps a login or error page saved instead of the file: download it again in a browser"
        )
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    # ONNX is a protocol buffer that starts with the field ir_version (1 byte) and the producer's name
    if path.suffix.lower() == ".onnx" or (head[:1] == b"\x08" and head[2:3] == b"\x12"):
        return f"an ONNX model{_PROGRAM}"
    if head.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):  # damaged: the checksum fails later
            return None
        return next((kind for part, kind in _ARCHIVES if any(part in name for name in names)), None)
    return None


def is_safetensors(path: Path) -> bool:
    """True for a safetensors file with any suffix: the length of the header, then a JSON object."""
    with path.open("rb") as file:
        head = file.read(10)
    return path.suffix == ".safetensors" or (len(head) == 10 and head[8:9] == b"{" and head[5:8] == b"\0\0\0")
