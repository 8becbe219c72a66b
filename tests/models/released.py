"""Weights in the layout of the released checkpoints: the inverse of `rename_published`."""

import re

import torch
from torch import Tensor

_NAMES = [  # ours -> published name, in this order
    (r"^stem\.conv2\.", "patch_proj.3."),
    (r"^stem\.norm2\.", "patch_proj.4.norm."),
    (r"^stem\.conv\.", "patch_proj.0."),
    (r"^stem\.norm1?\.", "patch_proj.1.norm."),
    (r"^norm\.", "cls_norm.norm."),
    (r"^head\.fc\.", "cls_head."),
    (r"^stages\.(\d+)\.downsample\.conv\.", lambda m: f"down_projs.{int(m[1]) - 1}.0."),
    (r"^stages\.(\d+)\.downsample\.norm\.", lambda m: f"down_projs.{int(m[1]) - 1}.1.norm."),
    (r"\.blocks\.(\d+)\.norm([12])\.", lambda m: f".layer_norms.{2 * int(m[1]) + int(m[2]) - 1}.norm."),
    (r"\.blocks\.(\d+)\.ls([12])\.gamma$", lambda m: f".layer_scales.{2 * int(m[1]) + int(m[2]) - 1}.weight"),
    (r"\.blocks\.(\d+)\.mlp\.fc([12])\.", r".mlps.\1.chunk.linear\2."),
    (r"\.blocks\.(\d+)\.mlp\.dwconv\.", r".mlps.\1.dwc."),
    (r"\.blocks\.(\d+)\.lpu\.", r".local_perception_units.\1."),
    (r"\.blocks\.(\d+)\.attn\.", r".attns.\1."),
    (r"\.sampling\.conv\.", ".conv_offset.0."),
    (r"\.sampling\.norm\.", ".conv_offset.1.norm."),
    (r"\.sampling\.proj\.", ".conv_offset.3."),
    (r"\.bias\.table$", ".rpe_table"),
    (r"\.dwc\.(weight|bias)$", r".dwc.\1"),
    (r"\.qkv\.", ".proj_qkv."),
    (r"(\.attns\.\d+)\.q\.", r"\1.proj_q."),
    (r"(\.attns\.\d+)\.proj\.", r"\1.proj_out."),
]


def released_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights by published names, with keys and values apart and 1x1 convolutions in deformable attention."""
    published = {}
    for name, value in state.items():
        new = name
        for pattern, replacement in _NAMES:
            new = re.sub(pattern, replacement, new)
        if ".kv." in new:
            key, value_part = value.chunk(2)
            for part, half in (("proj_k", key), ("proj_v", value_part)):
                published[new.replace(".kv.", f".{part}.")] = _convolution(half)
        elif re.search(r"\.proj_q\.|conv_offset\.3\.", new):
            published[new] = _convolution(value)
        else:
            published[new] = value
    return published


def _convolution(value: Tensor) -> Tensor:
    return value[:, :, None, None].clone() if value.ndim == 2 else value.clone()


def write_released(model: torch.nn.Module, path, **config) -> None:
    """Write a model's weights as the authors published theirs."""
    torch.save({"model": released_state(model.state_dict()), **config}, path)


def write_released_dense(model: torch.nn.Module, path, **meta) -> None:
    """Write a model with a Semantic FPN as the authors published theirs, with `meta`."""
    state = model.state_dict()
    inner = "backbone.body.model." if any("body.model." in name for name in state) else "backbone.body."
    body = {name.removeprefix(inner): value for name, value in state.items() if name.startswith(inner)}
    published = {f"backbone.{name}": value for name, value in released_state(body).items()}
    for name, value in state.items():
        if name.startswith("backbone.norms."):
            published[re.sub(r"norms\.(\d+)\.", r"norms.\1.norm.", name)] = value
        elif not name.startswith("backbone."):
            new = re.sub(r"^neck\.inner_blocks\.(\d+)\.0\.", r"neck.lateral_convs.\1.conv.", name)
            published[re.sub(r"^neck\.layer_blocks\.(\d+)\.0\.", r"neck.fpn_convs.\1.conv.", new)] = value
    torch.save({"meta": meta, "state_dict": published}, path)
