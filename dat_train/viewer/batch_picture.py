"""A picture of one augmented batch: what the model is going to see, with the labels it is told."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

MOST_IMAGES = 64
CELL = 160  # pixels a side of an image in the picture
SHARE_SHOWN = 0.06  # classes of a mixed label below this are not worth a line; smoothing over two classes is 0.05


def write_batch_picture(
    images: Tensor,
    targets: Tensor,
    classes: Sequence[str],
    path: str | Path,
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Draw up to 64 images of a batch in a grid, each with its label below.

    Args:
        images: (B, 3 or 1, H, W), normalised with `mean` and `std`.
        targets: (B, classes) soft labels, or (B,) class numbers.
        path: of the PNG to write.
    """
    from PIL import Image, ImageDraw, ImageFont

    images = images[:MOST_IMAGES].detach().cpu().float()
    shape = (1, -1, 1, 1)
    images = (images * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)).expand(-1, 3, -1, -1)
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
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
        # small images stay sharp pixels, large ones are reduced smoothly
        resampling = Image.Resampling.NEAREST if max(image.shape[:2]) < CELL else Image.Resampling.LANCZOS
        sheet.paste(Image.fromarray(image).resize((CELL, CELL), resampling), (x, y))
        for k, text in enumerate(_label(targets[i], classes)):
            draw.text((x, y + CELL + 2 + k * (line - 2)), _fitting(text, font, CELL), fill="black", font=font)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _label(target: Tensor, classes: Sequence[str]) -> list[str]:
    """A class name, or the one or two classes of a mixed image with their shares."""
    if target.ndim == 0:
        return [classes[int(target)]]
    target = target.float().cpu()
    if len(target) > 2:
        target = target - target.min()  # label smoothing, which no content stands behind
    shares, labels = target.topk(min(2, len(target)))
    shown = [
        (share, label) for share, label in zip(shares.tolist(), labels.tolist(), strict=True) if share > SHARE_SHOWN
    ]
    total = sum(share for share, _ in shown)
    if len(shown) == 1:
        return [classes[shown[0][1]]]
    return [f"{classes[label]}  {share / total:.0%}" for share, label in shown]


def _fitting(text: str, font: object, width: int) -> str:
    """`text`, shortened to `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
