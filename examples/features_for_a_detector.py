"""Object detection with a Deformable Attention Transformer as backbone of torchvision's RetinaNet.

python examples/features_for_a_detector.py [dat_tiny]
"""

import sys

import timm
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from torchvision.transforms.functional import to_tensor

import dat_train.models  # noqa: F401  registers the models


class Backbone(nn.Module):
    """Feature pyramid: images (B, 3, H, W) of any size -> (B, 256, H / s, W / s) for the stride s of each stage."""

    out_channels = 256

    def __init__(self, name: str) -> None:
        super().__init__()
        self.body = timm.create_model(name, features_only=True)  # load weights: dat_train.models.load_weights
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), self.out_channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.fpn({str(stage): x for stage, x in enumerate(self.body(images))})


def main(name: str) -> None:
    torch.manual_seed(0)
    backbone = Backbone(name)
    strides = backbone.body.feature_info.reduction()
    anchors = AnchorGenerator(tuple((8 * stride,) for stride in strides), ((0.5, 1.0, 2.0),) * len(strides))
    detector = RetinaNet(backbone, num_classes=2, anchor_generator=anchors, min_size=96, max_size=144)

    photo = to_tensor(load_sample_image("flower.jpg").copy())[:, ::4, ::4]  # (3, 107, 160)
    flower = {"boxes": torch.tensor([[45.0, 15.0, 117.0, 87.0]]), "labels": torch.tensor([1])}
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-4)
    for step in range(2):
        loss = sum(detector([photo], [flower]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}   loss {loss.item():.3f}")
    for stage, x in backbone(photo.unsqueeze(0)).items():
        print(f"stage {stage}: stride {strides[int(stage)]}, {tuple(x.shape)}")


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["dat_nano"])
