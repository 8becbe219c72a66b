"""The Deformable Attention Transformer: one class for all published variants, a timm backbone (docs/model.md).

Sources: Xia et al., Vision Transformer with Deformable Attention, CVPR 2022 (arXiv 2201.00520) and DAT++
(arXiv 2309.01430). The sizes of the variants are in registry.py.
"""

import logging
from collections.abc import Sequence

from timm.layers import ClassifierHead, calculate_drop_path_rates
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from dat_train.errors import UserError
from dat_train.models.blocks import Block, ConvStem, Downsample, Mlp, PatchStem
from dat_train.models.deformable import DeformableAttention
from dat_train.models.legacy_names import accept_legacy_names
from dat_train.models.neighborhood import NeighborhoodAttention
from dat_train.models.weights.loading import load_weights
from dat_train.models.window import WindowAttention

logger = logging.getLogger(__name__)


class Stage(nn.Module):
    """Downsampling (identity in the first stage) and blocks. (B, H, W, C) -> (B, H', W', C')."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        return checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x)


class DAT(nn.Module):
    """Deformable Attention Transformer.

    A per-stage argument takes one value per stage, or a single value for all stages. Earlier names of arguments are
    accepted (models/legacy_names.py).

    Args:
        img_size: resolution of the bias tables, pixels (side, or (height, width)); the model takes other sizes too.
        in_chans, num_classes, global_pool: as in timm; num_classes=0: no classifier.
        dims, depths, num_heads: per stage channels, number of blocks, attention heads.
        blocks: per stage block letters, repeated up to the depth, as "LS", "LD", "ND": L window, S shifted window,
            D deformable, N neighborhood attention (docs/model.md, "Pyramid").
        patch_size: stride of the patch stem.
        window_size: per stage, of L and S blocks. kernel_size: per stage, of N blocks.
        groups, strides, offset_kernels, offset_range_factor, position_bias, offsets: per stage, of D blocks
            (`DeformableAttention`; offset_kernels is its kernel_size).
        geometry: "cvpr" or "dat++": positions of reference points and queries.
        conv_stem: DAT++ stem and 3x3 downsampling instead of the CVPR ones.
        dwconv_mlp, local_perception: per stage, DAT++ blocks.
        layer_scale: per stage, initial LayerScale value. None: no LayerScale.
        mlp_ratio, drop_rate (head), proj_drop_rate, attn_drop_rate, drop_path_rate: as in timm.

    Raises:
        UserError: unknown block letter, or arguments that an attention refuses.

    Shape: (B, in_chans, H, W), H and W at least 8 * patch_size -> logits (B, num_classes).
    """

    @accept_legacy_names
    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        *,
        dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        blocks: Sequence[str] = ("LS", "LS", "LD", "LD"),
        patch_size: int = 4,
        window_size: int | Sequence[int] = 7,
        kernel_size: int | Sequence[int] = 7,
        groups: int | Sequence[int] = (1, 1, 3, 6),
        strides: int | Sequence[int] = 1,
        offset_kernels: int | Sequence[int] = (9, 7, 5, 3),
        offset_range_factor: float | Sequence[float | None] | None = 2.0,
        position_bias: str | Sequence[str] = "table",
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
        self.num_classes, self.in_chans, self.global_pool = num_classes, in_chans, global_pool
        self.num_features = dims[-1]
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        common = {"num_heads": num_heads, "attn_drop": attn_drop_rate, "proj_drop": proj_drop_rate}
        window = common | {"window_size": window_size}
        deformable = common | {
            "groups": groups, "stride": strides, "kernel_size": offset_kernels, "position_bias": position_bias,
            "offset_range_factor": offset_range_factor, "offsets": offsets, "geometry": geometry,
        }  # fmt: skip
        attentions = {  # by block letter: class and arguments, some of them per stage
            "L": (WindowAttention, window),
            "S": (WindowAttention, window | {"shifted": True}),
            "N": (NeighborhoodAttention, common | {"kernel_size": kernel_size}),
            "D": (DeformableAttention, deformable),
        }
        drop_paths = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stride = 4 if conv_stem else patch_size
        self.stem = ConvStem(in_chans, dims[0]) if conv_stem else PatchStem(in_chans, dims[0], patch_size)
        self.stages = nn.ModuleList()
        self.feature_info = []
        for i, dim in enumerate(dims):
            reduction = stride * 2**i
            size = (self.img_size[0] // reduction, self.img_size[1] // reduction)
            downsample = Downsample(dims[i - 1], dim, 3 if conv_stem else 2) if i else nn.Identity()
            stage_blocks = []
            for j in range(depths[i]):
                attn = _attention(attentions, blocks[i][j % len(blocks[i])], dim, size, i)
                mlp = Mlp(dim, mlp_ratio, proj_drop_rate, _of_stage(dwconv_mlp, i))
                additions = {"layer_scale": layer_scale, "local_perception": local_perception}
                additions = {name: _of_stage(value, i) for name, value in additions.items()}
                stage_blocks.append(Block(dim, attn, mlp, drop_paths[i][j], **additions))
            self.stages.append(Stage(downsample, stage_blocks))
            self.feature_info.append({"num_chs": dim, "reduction": reduction, "module": f"stages.{i}"})
        self.norm = nn.LayerNorm(self.num_features)
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.head_hidden_size = self.num_features * self.head.global_pool.feat_mult()

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay besides one-dimensional ones: the relative position bias tables.

        Their published names contain `relative_position_bias_table` (windows) or `rpe_table` (deformable attention: the
        table, and the weights of `dwc` and `log_cpb`). Neighborhood attention's `rpb` decays, as published.
        """
        marks = ("relative_position_bias_table", ".attn.bias.", ".attn.dwc.")
        return {name for name, _ in self.named_parameters() if any(mark in name for mark in marks)}

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

    def load_pretrained(self, source: str, prefix: str = "") -> None:
        """Load weights for timm.create_model(..., pretrained=True).

        Args:
            source: weights as in `dat_train.models.load_weights`, for example "published:dat_tiny".
            prefix: unused; part of timm's signature.
        """
        logger.info("%s", load_weights(self, source))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """Last linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one for `num_classes` classes. 0 removes it; global_pool="": no pooling."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        self.head.reset(num_classes, pool_type=global_pool)
        like = next(self.parameters())
        self.head.to(device=like.device, dtype=like.dtype)
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
        """Remove the stages and layers that the stages at `indices` do not need; return the indices as a list."""
        take, last = feature_take_indices(len(self.stages), indices)
        shortened = last < len(self.stages) - 1
        if prune_norm or shortened:
            self.norm = nn.Identity()
        self.stages = self.stages[: last + 1]
        if shortened:
            self.num_features = self.head_hidden_size = self.head.in_features = self.feature_info[last]["num_chs"]
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


def _attention(attentions: dict, letter: str, dim: int, size: tuple[int, int], stage: int) -> nn.Module:
    """Attention of a block letter on maps of `size` = (H, W) in a stage."""
    if letter not in attentions:
        raise UserError(f"blocks has the letter {letter!r} in stage {stage + 1}; the letters are L, S, D and N")
    cls, arguments = attentions[letter]
    arguments = {name: _of_stage(value, stage) for name, value in arguments.items()}
    return cls(dim, **arguments, **({"size": size} if cls is DeformableAttention else {}))


def _of_stage(value, stage: int):
    """Value of a per-stage argument in a stage."""
    return value[stage] if isinstance(value, Sequence) and not isinstance(value, str) else value
