"""The Deformable Attention Transformer: one model class for every published variant, with timm's contract.

Sources: Xia et al., Vision Transformer with Deformable Attention, CVPR 2022 (arXiv 2201.00520) and DAT++
(arXiv 2309.01430). The variants' sizes are in registry.py.
"""

from collections.abc import Sequence

import torch
from timm.layers import ClassifierHead, calculate_drop_path_rates
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from dat_train.errors import UserError
from dat_train.models.blocks import Block, ConvStem, Downsample, Mlp, PatchStem
from dat_train.models.deformable import DeformableAttention
from dat_train.models.neighborhood import NeighborhoodAttention
from dat_train.models.window import WindowAttention


class Stage(nn.Module):
    """Downsampling (identity in the first stage) and blocks. (B, H, W, C) -> (B, H', W', C')."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


class DAT(nn.Module):
    """Deformable Attention Transformer.

    Everything about the blocks is data; a per-stage argument takes one value a stage, or a single value for all.

    Args:
        img_size: resolution the bias tables are made for, pixels (side, or (height, width)); the model takes others.
        in_chans, num_classes, global_pool: as in timm; num_classes=0 leaves out the classifier.
        dims, depths, heads: per stage channels, number of blocks, attention heads.
        blocks: per stage block letters, repeated up to the depth: "LS", "LD", "ND" (see the spec's block letters:
            L window, S shifted window, D deformable, N neighborhood).
        patch_size: stride of the patch stem.
        window_size: per stage, of L and S blocks; kernel_size: per stage, of N blocks.
        groups, strides, offset_kernels, offset_range, bias, offsets: per stage, of D blocks (`DeformableAttention`).
        geometry: "cvpr" or "dat++", where reference points and queries lie.
        conv_stem: DAT++ stem and 3x3 downsampling instead of the CVPR ones.
        dwconv_mlp, local_perception: DAT++ blocks; per stage.
        layer_scale: initial LayerScale value, per stage; None: no LayerScale.
        mlp_ratio, drop_rate (head), proj_drop_rate, attn_drop_rate, drop_path_rate: as in timm.

    Shape: (B, in_chans, H, W), H and W at least 8 * patch_size -> logits (B, num_classes).
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        blocks: Sequence[str] = ("LS", "LS", "LD", "LD"),
        patch_size: int = 4,
        window_size: int | Sequence[int] = 7,
        kernel_size: int | Sequence[int] = 7,
        groups: int | Sequence[int] = (1, 1, 3, 6),
        strides: int | Sequence[int] = 1,
        offset_kernels: int | Sequence[int] = (9, 7, 5, 3),
        offset_range: float | Sequence[float | None] | None = 2.0,
        bias: str | Sequence[str] = "table",
        offsets: bool | Sequence[bool] = True,
        geometry: str = "cvpr",
        conv_stem: bool = False,
        dwconv_mlp: bool | Sequence[bool] = False,
        local_perception: bool | Sequence[bool] = False,
        layer_scale: float | Sequence[float | None] | None = None,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        stages = len(dims)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.global_pool = global_pool
        self.num_features = dims[-1]
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.stem = ConvStem(in_chans, dims[0]) if conv_stem else PatchStem(in_chans, dims[0], patch_size)
        stride = 4 if conv_stem else patch_size
        drop_paths = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)

        def attention(letter: str, i: int, size: tuple[int, int]) -> nn.Module:
            drop = {"attn_drop": attn_drop_rate, "proj_drop": proj_drop_rate}
            if letter in "LS":
                return WindowAttention(dims[i], heads[i], _stage(window_size, i), letter == "S", **drop)
            if letter == "N":
                return NeighborhoodAttention(dims[i], heads[i], _stage(kernel_size, i), **drop)
            if letter == "D":
                return DeformableAttention(
                    dims[i],
                    heads[i],
                    _stage(groups, i),
                    size,
                    kernel_size=_stage(offset_kernels, i),
                    stride=_stage(strides, i),
                    offset_range=_stage(offset_range, i),
                    bias=_stage(bias, i),
                    offsets=_stage(offsets, i),
                    geometry=geometry,
                    **drop,
                )
            raise UserError(f"blocks[{i}]={blocks[i]!r} has the letter {letter!r}; the letters are L, S, D and N")

        self.stages = nn.ModuleList()
        self.feature_info = []
        for i in range(stages):
            reduction = stride * 2**i
            size = (self.img_size[0] // reduction, self.img_size[1] // reduction)
            letters = (blocks[i] * depths[i])[: depths[i]]
            self.stages.append(
                Stage(
                    nn.Identity() if i == 0 else Downsample(dims[i - 1], dims[i], 3 if conv_stem else 2),
                    [
                        Block(
                            dims[i],
                            attention(letter, i, size),
                            Mlp(dims[i], mlp_ratio, proj_drop_rate, _stage(dwconv_mlp, i)),
                            drop_paths[i][j],
                            _stage(layer_scale, i),
                            _stage(local_perception, i),
                        )
                        for j, letter in enumerate(letters)
                    ],
                )
            )
            self.feature_info.append({"num_chs": dims[i], "reduction": reduction, "module": f"stages.{i}"})
        self.norm = nn.LayerNorm(self.num_features)
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.head_hidden_size = self.num_features * self.head.global_pool.feat_mult()

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay besides one-dimensional ones: the relative position bias tables.

        The published names contain `relative_position_bias_table` (windows) or `rpe_table` (deformable attention: the
        table, and the weights of `dwc` and `log_cpb`). Neighborhood attention's `rpb` decays, as published.
        """
        marks = ("relative_position_bias_table", ".attn.bias.", ".attn.dwc.")
        return {name for name, _ in self.named_parameters() if any(mark in name for mark in marks)}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Layers for layer-wise learning-rate decay: stem, then blocks in order."""
        blocks = r"^stages\.(\d+)"
        if not coarse:
            blocks = [
                (r"^stages\.(\d+)\.downsample", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^norm", (99999,)),
            ]
        return {"stem": r"^stem", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier for `num_classes` classes; 0 removes it, global_pool="" also the pooling."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        self.head.reset(num_classes, pool_type=global_pool)
        self.head_hidden_size = self.num_features * self.head.global_pool.feat_mult()

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Outputs of the stages at `indices` (last n if int, all if None), each (B, C, H, W); timm's signature."""
        if output_fmt not in ("NCHW", "NHWC"):
            raise UserError(f"output_fmt={output_fmt!r} must be NCHW or NHWC")
        take, last = feature_take_indices(len(self.stages), indices)
        intermediates = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(x)
            if i in take:
                y = self.norm(x) if norm and i == len(self.stages) - 1 else x
                intermediates.append(y.permute(0, 3, 1, 2) if output_fmt == "NCHW" else y)
        if intermediates_only:
            return intermediates
        if not stop_early or last == len(self.stages) - 1:
            x = self.norm(x)
        return x.permute(0, 3, 1, 2), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the stages at `indices` do not need."""
        take, last = feature_take_indices(len(self.stages), indices)
        shortened = last < len(self.stages) - 1
        if prune_norm or shortened:
            self.norm = nn.Identity()
        self.stages = self.stages[: last + 1]
        if shortened:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> normalized features (B, C, H/32, W/32), channels-last in memory."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.norm(x).permute(0, 3, 1, 2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features -> logits (B, num_classes), or pooled features (B, C) with pre_logits."""
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _stage(value, i: int):
    """A per-stage argument's value in stage i."""
    return value[i] if isinstance(value, Sequence) and not isinstance(value, str) else value
