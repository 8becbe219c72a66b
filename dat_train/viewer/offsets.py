"""Whether offsets learn: how long they are, how many are at their limit, how many points are outside the map."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dat_train.models.deformable import SamplingPositions
from dat_train.models.modes import evaluating
from dat_train.models.sampling import Sampling, record_sampling

MEASURES = ("offset_length", "offset_at_limit", "offset_outside")
NEAR = 0.99  # of the limit counts as at it: tanh reaches it never


def offset_statistics(layer: SamplingPositions, sampling: Sampling) -> Tensor:
    """(3,) on the device, the means over images, groups and points.

    offset_length: how far a point is from its reference point, in cells of the reference grid (the distance between
    neighbouring reference points).
    offset_at_limit: share of points that cannot go further along an axis: at the offset's range, or, where offsets are
    free, at the bound of positions.
    offset_outside: share of points beyond the centres of the border cells, where sampling finds partly zeros.

    Args:
        sampling: positions (B, groups, Hk, Wk, 2) and reference (Hk, Wk, 2).
    """
    positions, reference = sampling
    offset = positions - reference
    cells = torch.tensor(positions.shape[2:4]) - (0 if layer.geometry == "cvpr" else 1)
    cells = cells.clamp(min=1).to(offset, non_blocking=True)  # (2,) between -1 and 1
    length = (offset * cells / 2).norm(dim=-1)
    if layer.offset_range is None:
        limited = positions.abs() >= NEAR
    else:
        limited = offset.abs() * cells >= NEAR * layer.offset_range
    outside = positions.abs() > 1
    return torch.stack([value.to(offset.dtype).mean() for value in (length, limited.any(-1), outside.any(-1))])


class OffsetWatch:
    """Measures a model's offsets on the same few images again and again, in evaluation mode.

    Nothing random is drawn and no weight touched: a run that is watched has the bits of one that is not.

    Args:
        every: steps between two looks.
        images: called once, at the first look: (B, 3, H, W) on the model's device, in its weights' dtype.
    """

    def __init__(self, every: int, images: Callable[[], Tensor]) -> None:
        self.every = every
        self._make_images = images
        self._images: Tensor | None = None

    def due(self, step: int) -> bool:
        """Whether to look after `step` steps."""
        return step % self.every == 0

    @torch.no_grad()
    def measure(self, model: nn.Module) -> dict[str, Tensor]:
        """() on the device by name, as "offset_length/stage3.block2"; modules are left in the modes they had."""
        if self._images is None:
            self._images = self._make_images()
        with evaluating(model), record_sampling(model) as layers:
            model(self._images)
        found = {}
        for name, sampling in layers.items():
            values = offset_statistics(model.get_submodule(f"{name}.sampling"), sampling)
            found |= {f"{measure}/{_short(name)}": value for measure, value in zip(MEASURES, values, strict=True)}
        return found


def _short(name: str) -> str:
    """ "stages.2.blocks.1.attn" -> "stage3.block2", counted as in the papers."""
    _, stage, _, block, _ = name.split(".")
    return f"stage{int(stage) + 1}.block{int(block) + 1}"
