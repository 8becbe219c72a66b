"""Translation of parameter names and shapes in released checkpoints."""

import re

import torch
from torch import Tensor

_SUBSTITUTIONS = [  # published name -> ours, in this order
    (r"^patch_proj\.0\.", "stem.conv."),
    (r"^patch_proj\.1\.norm\.", "stem.norm."),
    (r"^patch_proj\.3\.", "stem.conv2."),
    (r"^patch_proj\.4\.norm\.", "stem.norm2."),
    (r"^cls_norm\.norm\.", "norm."),
    (r"^cls_head\.", "head.fc."),
    (r"\.attns\.(\d+)\.", r".blocks.\1.attn."),
    (r"\.local_perception_units\.(\d+)\.", r".blocks.\1.lpu."),
    (r"\.mlps\.(\d+)\.", r".blocks.\1.mlp."),
    (r"\.mlp\.(?:chunk\.)?linear([12])\.(?:0\.)?", r".mlp.fc\1."),
    (r"\.mlp\.dwc\.", ".mlp.dwconv."),
    (r"\.conv_offset\.0\.", ".sampling.conv."),
    (r"\.conv_offset\.1\.norm\.", ".sampling.norm."),
    (r"\.conv_offset\.3\.", ".sampling.proj."),
    (r"\.rpe_table\.0\.", ".bias.fc1."),
    (r"\.rpe_table\.2\.", ".bias.fc2."),
    (r"\.rpe_table\.", ".dwc."),
    (r"\.rpe_table$", ".bias.table"),
    (r"\.proj_qkv\.", ".qkv."),
    (r"\.proj_q\.", ".q."),
    (r"\.proj_out\.", ".proj."),
]
_RECOMPUTED = re.compile(r"(relative_position_index|attn_mask|rel_pos_indices|q_grid)$")  # buffers


def is_published(state: dict[str, Tensor]) -> bool:
    """True for weights under the published names."""
    return any(name.startswith(("patch_proj.", "cls_norm.", "down_projs.")) or ".attns." in name for name in state)


def rename_published(state: dict[str, Tensor], model: torch.nn.Module | None = None) -> dict[str, Tensor]:
    """Translate published names and shapes to ours; other weights are returned unchanged.

    1x1 convolutions become linear layers, proj_k and proj_v become one `kv`, and norms and LayerScales, which are
    numbered over a stage, become parts of their block.

    Args:
        state: published weights by name.
        model: not used; part of timm's signature for `pretrained_filter_fn`.
    """
    if not is_published(state):
        return state
    conv_stem = "patch_proj.3.weight" in state
    renamed = {}
    for name, value in state.items():
        if _RECOMPUTED.search(name):
            continue
        new = _rename(name)
        if conv_stem and new.startswith("stem.norm."):
            new = new.replace("stem.norm.", "stem.norm1.")
        renamed[new] = _as_linear(new, value)
    for name in [name for name in renamed if ".attn.proj_k." in name]:
        key, value = renamed[name], renamed.get(name.replace("proj_k", "proj_v"))
        if value is not None and value.shape[1:] == key.shape[1:]:  # otherwise both names are reported as unexpected
            del renamed[name], renamed[name.replace("proj_k", "proj_v")]
            renamed[name.replace("proj_k", "kv")] = torch.cat([key, value])
    return renamed


def _rename(name: str) -> str:
    for pattern, replacement in _SUBSTITUTIONS:
        name = re.sub(pattern, replacement, name)
    # norms and LayerScales 2j and 2j + 1 belong to block j
    name = re.sub(
        r"\.layer_norms\.(\d+)\.norm\.",
        lambda m: f".blocks.{int(m[1]) // 2}.norm{int(m[1]) % 2 + 1}.",
        name,
    )
    name = re.sub(
        r"\.layer_scales\.(\d+)\.weight$",
        lambda m: f".blocks.{int(m[1]) // 2}.ls{int(m[1]) % 2 + 1}.gamma",
        name,
    )
    # downsampling i is between stages i and i + 1; here it is the first part of stage i + 1
    name = re.sub(r"^down_projs\.(\d+)\.0\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.conv.", name)
    return re.sub(r"^down_projs\.(\d+)\.1\.norm\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.norm.", name)


def _as_linear(name: str, value: Tensor) -> Tensor:
    """Return the weight of a 1x1 convolution in the shape of a linear layer; other weights unchanged."""
    is_pointwise = value.ndim == 4 and value.shape[2:] == (1, 1)
    if is_pointwise and re.search(r"\.(fc1|fc2|q|kv|proj_k|proj_v|proj|sampling\.proj)\.weight$", name):
        return value.flatten(1)
    return value
