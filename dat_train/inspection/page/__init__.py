"""Pages of one file, which need no network; their HTML, style and script lie beside this."""

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

HERE = Path(__file__).parent


def write_page(name: str, path: Path, **parts: str) -> Path:
    """Write NAME.html with its style, its script and `parts` (HTML) filled in; whole before it is there."""
    page = (HERE / f"{name}.html").read_text(encoding="utf-8")
    parts["style"] = "".join((HERE / file).read_text(encoding="utf-8") for file in ("style.css", f"{name}.css"))
    parts["script"] = (HERE / f"{name}.js").read_text(encoding="utf-8")
    page = re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], page)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(page, encoding="utf-8", errors="replace")
    beside.replace(path)
    return path


def picture_url(pixels: np.ndarray) -> str:
    """(height, width, 3) uint8 as a data: URL, a PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def jpeg_url(image: "Image") -> str:
    """A small picture as a data: URL, a JPEG."""
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
