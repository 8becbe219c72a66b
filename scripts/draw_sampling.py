"""Draw docs/images/sampling.png: reference points, offsets and bilinear sampling of deformable attention.

python scripts/draw_sampling.py [OUTPUT]
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import timm
import torch
from matplotlib.axes import Axes
from sklearn.datasets import load_sample_image

from dat_train.models import record_sampling
from dat_train.models.deformable import reference_grid, sample_bilinear

OUTPUT = Path(__file__).parents[1] / "docs" / "images" / "sampling.png"
LAYER = "stages.2.blocks.1.attn"  # the first deformable layer of DAT-T: 14 x 14 keys, 3 groups
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
BLUE, ORANGE, GRAY = "#1f5fbf", "#d9541e", "#8a8f98"


def draw_reference_points(axes: Axes, size: int = 4) -> None:
    """Positions of a size x size map and the reference points of both geometries (step 4)."""
    centers = np.linspace(-1, 1, size)
    x, y = np.meshgrid(centers, centers)
    axes.scatter(x, y, s=160, marker="s", color="#e4e7ec", label="positions of the map")
    for geometry, color, marker in (("cvpr", BLUE, "o"), ("dat++", ORANGE, "x")):
        points = reference_grid(size, size, geometry, torch.zeros(())).flatten(0, 1)
        label = {"cvpr": "reference points, CVPR", "dat++": "reference points, DAT++"}[geometry]
        axes.scatter(points[:, 1], points[:, 0], s=36, marker=marker, color=color, label=label)
    axes.set(xlim=(-1.6, 1.6), ylim=(1.6, -1.6), xticks=[-1, 0, 1], yticks=[-1, 0, 1], xlabel="x", ylabel="y")
    axes.set_title("Reference points (step 4)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), fontsize=8, frameon=False)


def draw_offsets(axes: Axes) -> None:
    """Reference points and sampling positions of one group on a photograph (steps 2 to 5)."""
    photo = torch.from_numpy(load_sample_image("china.jpg").copy())[:420, 100:520]
    image = torch.nn.functional.interpolate(photo.permute(2, 0, 1)[None] / 255, (224, 224), mode="area")
    torch.manual_seed(0)
    model = timm.create_model("dat_tiny").eval()
    model.get_submodule(f"{LAYER}.sampling.proj").weight.data.mul_(8)  # random weights predict short offsets
    with torch.inference_mode(), record_sampling(model) as layers:
        model((image - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1))
    positions, reference = layers[LAYER]
    # -1 and 1 are the centers of the border positions, of 16 pixels each
    start, end = ((points.reshape(-1, 2).flip(-1) + 1) / 2 * 13 * 16 + 8 for points in (reference, positions[0, 0]))
    axes.imshow(image[0].permute(1, 2, 0) * 0.5 + 0.5)
    axes.quiver(*start.T, *(end - start).T, angles="xy", scale_units="xy", scale=1, width=0.004, color=GRAY)
    axes.scatter(*start.T, s=7, color=BLUE, label="reference points")
    axes.scatter(*end.T, s=9, color=ORANGE, label="sampling positions, group 1 of 3")
    axes.set(xlim=(-4, 228), ylim=(228, -4), xticks=[], yticks=[])
    axes.set_title("Offsets (steps 2, 3 and 5)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.04), fontsize=8, frameon=False)


def draw_bilinear(axes: Axes) -> None:
    """One sampling position and the weights of the four positions around it (step 6)."""
    size, point = 4, torch.tensor([-0.18, 0.12])  # (y, x)
    one_hot = torch.eye(size * size).view(1, size, size, size * size)
    weights = sample_bilinear(one_hot, point.view(1, 1, 1, 1, 2)).view(size, size).numpy()
    centers = np.linspace(-1, 1, size)
    for i, y in enumerate(centers):
        for j, x in enumerate(centers):
            used = weights[i, j] > 0
            axes.scatter(x, y, s=900, marker="s", color="#f6d3c4" if used else "#e4e7ec")
            if used:
                axes.annotate(f"{weights[i, j]:.2f}", (x, y), ha="center", va="center", fontsize=9)
                axes.plot([point[1], x], [point[0], y], color=GRAY, linewidth=0.8, zorder=0)
    axes.scatter(point[1], point[0], s=40, color=ORANGE, zorder=3)
    axes.set(xlim=(-1.6, 1.6), ylim=(1.6, -1.6), xticks=[-1, 0, 1], yticks=[-1, 0, 1], xlabel="x", ylabel="y")
    axes.set_title("Bilinear sampling (step 6)")


def main() -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 5), dpi=110)
    figure.subplots_adjust(left=0.04, right=0.98, top=0.93, bottom=0.22, wspace=0.12)
    for draw, part in zip((draw_reference_points, draw_offsets, draw_bilinear), axes, strict=True):
        draw(part)
        part.set_aspect("equal")
    figure.savefig(Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT)


if __name__ == "__main__":
    main()
