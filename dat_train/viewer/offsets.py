"""Statistics of the learned offsets: length, fraction at the limit, fraction of points outside the map."""

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dat_train.models.deformable import SamplingPositions
from dat_train.models.modes import evaluating
from dat_train.models.recording import Sampling, record_sampling

MEASURES = ("offset_length", "offset_at_limit", "offset_outside")
NEAR = 0.99  # fraction of the limit from which an offset counts as at the limit, which tanh does not reach


def offset_statistics(layer: SamplingPositions, sampling: Sampling) -> Tensor:
    """(3,) on the device: offset_length, offset_at_limit, offset_outside, means over images, groups and points.

    offset_length: distance of a point from its reference point, in cells of the reference grid (the distance of
    neighboring reference points).
    offset_at_limit: fraction of points with an offset at the limit of its range along an axis; for unlimited offsets,
    with a position at the limit of positions.
    offset_outside: fraction of points beyond the centers of the border cells, where sampling reads partly zeros.

    Args:
        sampling: positions (B, groups, Hk, Wk, 2) and reference (Hk, Wk, 2).
    """
    positions, reference = sampling
    offset = positions - reference
    cells = torch.tensor(positions.shape[2:4]) - (0 if layer.geometry == "cvpr" else 1)
    cells = cells.clamp(min=1).to(offset, non_blocking=True)  # (2,) between -1 and 1
    length = (offset * cells / 2).norm(dim=-1)
    if layer.offset_range_factor is None:
        limited = positions.abs() >= NEAR
    else:
        limited = offset.abs() * cells >= NEAR * layer.offset_range_factor
    outside = positions.abs() > 1
    return torch.stack([value.to(offset.dtype).mean() for value in (length, limited.any(-1), outside.any(-1))])


class OffsetMonitor:
    """Measurement of the offsets of a model on a fixed set of images, in evaluation mode.

    It draws no random numbers and changes no weight, so the results of a run do not depend on it.

    Args:
        every: steps between measurements.
        images: called once, at the first measurement; returns batches (B, C, H, W) on the model's device, in the dtype
            of its weights. Values are means over the batches.
    """

    def __init__(self, every: int, images: Callable[[], Sequence[Tensor]]) -> None:
        self.every = every
        self._make_images = images
        self._images: Sequence[Tensor] | None = None

    def is_due(self, step: int) -> bool:
        """Returns True if a measurement follows step `step`."""
        return step % self.every == 0

    @torch.no_grad()
    def measure(self, model: nn.Module) -> dict[str, Tensor]:
        """Scalars on the device by name, such as "offset_length/stage3.block2". Training modes are restored."""
        if self._images is None:
            self._images = self._make_images()
        found: dict[str, Tensor] = {}
        for images in self._images:
            with evaluating(model), record_sampling(model) as layers:
                model(images)
            for name, sampling in layers.items():
                stage, block = stage_and_block(name)
                values = offset_statistics(model.get_submodule(f"{name}.sampling"), sampling) / len(self._images)
                for measure, value in zip(MEASURES, values, strict=True):
                    key = f"{measure}/stage{stage}.block{block}"
                    found[key] = found[key] + value if key in found else value
        return found


def stage_and_block(name: str) -> tuple[int, int]:
    """Numbers, counted from 1, of the stage and block of an attention module "stages.2.blocks.1.attn"."""
    stage, block = re.search(r"stages\.(\d+)\.blocks\.(\d+)\.attn$", name).groups()
    return int(stage) + 1, int(block) + 1
