"""Picture of one augmented batch with its labels."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from dat_train.atomic import replacing
from dat_train.data.batch import denormalize
from dat_train.runtime.display_text import one_line

MAX_IMAGES = 64
CELL = 160  # side of an image in the picture, pixels
MIN_SHARE = 0.06  # smaller weights of a mixed label are not shown; label smoothing over two classes gives 0.05


def write_batch_picture(
    images: Tensor,
    targets: Tensor,
    classes: Sequence[str],
    path: str | Path,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    several: bool = False,
) -> None:
    """Draw up to 64 images of a batch in a grid, each with its label below.

    Args:
        images: (B, C, H, W) with 1 or 3 channels, normalized with `mean` and `std`.
        targets: (B, classes) soft labels, or (B,) class numbers.
        path: PNG file to write.
        several: targets are weights of independent labels, of which an image has any number.
    """
    from PIL import Image, ImageDraw, ImageFont

    pixels = denormalize(images[:MAX_IMAGES], mean, std)
    columns = min(8, len(pixels))
    rows = -(-len(pixels) // columns)
    font = ImageFont.load_default(size=13)
    line, gap = 18, 8
    width, height = columns * (CELL + gap) + gap, rows * (CELL + 2 * line + gap) + gap
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, image in enumerate(pixels):
        x = gap + i % columns * (CELL + gap)
        y = gap + i // columns * (CELL + 2 * line + gap)
        # keep the pixels of small images sharp, and reduce large images with antialiasing
        resampling = Image.Resampling.NEAREST if max(image.shape[:2]) < CELL else Image.Resampling.LANCZOS
        sheet.paste(Image.fromarray(image).resize((CELL, CELL), resampling), (x, y))
        texts = _labels(targets[i], classes) if several else _label(targets[i], classes)
        for k, text in enumerate(texts):
            draw.text((x, y + CELL + 2 + k * (line - 2)), _fitting(text, font, CELL), fill="black", font=font)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        sheet.save(file, format="PNG")


def _label(target: Tensor, classes: Sequence[str]) -> list[str]:
    """The class name, or the two classes of a mixed image with their weights."""
    if target.ndim == 0:
        return [one_line(classes[int(target)])]
    target = target.float().cpu()
    if len(target) > 2:
        target = target - target.min()  # remove label smoothing
    shares, labels = target.topk(min(2, len(target)))
    shown = [(share, label) for share, label in zip(shares.tolist(), labels.tolist(), strict=True) if share > MIN_SHARE]
    total = sum(share for share, _ in shown)
    if len(shown) == 1:
        return [one_line(classes[shown[0][1]])]
    return [f"{one_line(classes[label])}  {share / total:.0%}" for share, label in shown]


def _labels(shares: Tensor, classes: Sequence[str]) -> list[str]:
    """All labels on one line; a label of only one of two mixed images is shown with its weight."""
    pairs = [(one_line(classes[k]), share) for k, share in enumerate(shares.tolist()) if share > MIN_SHARE]
    return [", ".join(name if share > 0.99 else f"{name} {share:.0%}" for name, share in pairs) or "(none)"]


def _fitting(text: str, font: object, width: int) -> str:
    """Shorten `text` to `width` pixels, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
