"""Self-contained HTML pages: template, style and script are written into one file that needs no network."""

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dat_train.atomic import write_text

if TYPE_CHECKING:
    from PIL.Image import Image

FRAME, SHARED_STYLE = (Path(__file__).with_name(name) for name in ("page.html", "style.css"))


def write_page(template: Path, path: Path, **parts: str) -> Path:
    """Fill a template, put it into the frame page.html, and write the page atomically.

    Args:
        template: NAME.html, the body, with NAME.css and NAME.js in the same folder. {{part}} is replaced by a part.
        path: page to write.
        parts: HTML by name; `title` is also the title of the page.
    """

    def filled(file: Path) -> str:
        return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], file.read_text(encoding="utf-8"))

    styles = (SHARED_STYLE, template.with_suffix(".css"))
    parts["style"] = "".join(style.read_text(encoding="utf-8") for style in styles)
    parts["script"] = template.with_suffix(".js").read_text(encoding="utf-8")
    parts["content"] = filled(template)
    page = filled(FRAME)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page, errors="replace")
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
