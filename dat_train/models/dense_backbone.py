"""Backbone parts of dense prediction: normed stage outputs, feature pyramid, convolution with normalization."""

from collections import OrderedDict
from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from dat_train.errors import UserError
from dat_train.models.weights.published_dense import adapt_state

STRIDES = (4, 8, 16, 32)


class DenseBackbone(nn.Module):
    """Stage outputs of a feature extractor, each through a separate LayerNorm over the channels.

    The next stage reads the output before this norm. An output at stride 4 that is not used has no norm.

    Args:
        body: module that turns images into a list of maps (B, C, H, W), as timm's features_only models do.
        channels: channels of each map of `body`.

    Shape: images (B, 3, H, W) -> maps (B, channels[i], ceil(H / stride[i]), ceil(W / stride[i])).
    """

    def __init__(self, body: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        self.channels = tuple(channels)
        self.norms = nn.ModuleList(LayerNorm2d(dim, eps=1e-5) for dim in channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.body(images)
        if getattr(self.body, "output_fmt", "NCHW") == "NHWC":  # Swin's
            maps = [x.permute(0, 3, 1, 2).contiguous() for x in maps]
        return [norm(x) for norm, x in zip(self.norms, maps, strict=True)]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        getattr(self.body, "model", self.body).set_grad_checkpointing(enable)


def create_backbone(name: str, output_strides: Sequence[int] = STRIDES, **kwargs) -> DenseBackbone:
    """Dense backbone from a timm model name (the DAT models or any other with feature maps at `output_strides`).

    Args:
        name: timm model name, such as "datpp_tiny" or "resnet50".
        output_strides: strides of the outputs, of 4, 8, 16, 32.
        kwargs: arguments of the timm model.

    Raises:
        UserError: the model has no feature map at one of the strides.
    """
    kwargs = {"strict_img_size": False, **kwargs}  # Swin's argument for images of any size
    while True:
        try:
            probe = timm.create_model(name, features_only=True, **kwargs)
            break
        except TypeError as error:  # an argument that this model does not have
            unknown = next((key for key in ("strict_img_size", "img_size") if f"argument '{key}'" in str(error)), None)
            if unknown not in kwargs:
                raise
            del kwargs[unknown]
    reductions = list(probe.feature_info.reduction())
    missing = [stride for stride in output_strides if stride not in reductions]
    if missing:
        raise UserError(
            f"model={name} has feature maps at strides {reductions}, not at {missing[0]}: take another model"
        )
    indices = tuple(probe.feature_info.out_indices[reductions.index(stride)] for stride in output_strides)
    body = timm.create_model(name, features_only=True, out_indices=indices, **kwargs)
    for module in body.modules():
        if hasattr(module, "dynamic_img_pad"):  # Swin's patches: images whose sides are not multiples of the patch
            module.dynamic_img_pad = True
    return DenseBackbone(body, body.feature_info.channels())


class DenseModel(nn.Module):
    """Base of the models of dense prediction; subclasses have a `backbone` and heads."""

    backbone: DenseBackbone
    decays_biases = True

    def adapt_state(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Weights of a released dense model or of a classifier for this model; see `published_dense.adapt_state`."""
        return adapt_state(self, state)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.backbone.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Norms and relative position bias tables of the backbone.

        All other parameters decay as published, biases and neighborhood attention's tables (`rpb`) included.
        """
        tables = ("relative_position_bias_table", ".attn.bias.", ".attn.dwc.")
        return {
            name
            for name, _ in self.named_parameters()
            if name.startswith("backbone.") and ("norm" in name or any(mark in name for mark in tables))
        }


class StridedLevels(ExtraFPNBlock):
    """Extra pyramid levels by 3x3 convolutions with stride 2, the first on the last backbone output, without ReLU."""

    def __init__(self, in_channels: int, out_channels: int, levels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels if i == 0 else out_channels, out_channels, 3, 2, 1) for i in range(levels)
        )

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        last = x[-1]
        for conv in self.convs:
            last = conv(last)
            results.append(last)
            names.append(f"extra{len(names)}")
        return results, names


class PooledLevel(ExtraFPNBlock):
    """One extra pyramid level: every second pixel of the last level."""

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        return [*results, F.max_pool2d(results[-1], 1, 2)], [*names, "pool"]


class Pyramid(FeaturePyramidNetwork):
    """Feature pyramid on a list of maps: torchvision's, with Xavier initialization.

    Args:
        in_channels: channels of each input map, finest first.
        out_channels: channels of every level.
        extra: additional levels, `StridedLevels` or `PooledLevel`.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, extra: ExtraFPNBlock | None = None) -> None:
        super().__init__(list(in_channels), out_channels, extra)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return list(super().forward(OrderedDict((str(i), x) for i, x in enumerate(maps))).values())


class ConvNormAct(nn.Module):
    """Convolution without bias, batch normalization, ReLU; `norm=False`: convolution with bias, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(out_channels) if norm else nn.Identity()
        init_conv(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def init_conv(conv: nn.Module) -> None:
    """Kaiming normal (fan-out) weights, zero bias."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def init_normal(layer: nn.Module, std: float = 0.01) -> nn.Module:
    """Normal weights, zero bias."""
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize of a map (B, C, H, W), corners not aligned."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def full_precision(x: Tensor) -> Tensor:
    """Half-precision outputs of autocast as float32; float32 and float64 unchanged."""
    return x if x.dtype == torch.float64 else x.float()
