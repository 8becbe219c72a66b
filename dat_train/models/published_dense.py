"""Names in the released segmentation and detection checkpoints, translated to ours."""

import re

from torch import Tensor, nn

from dat_train.models.published import rename_published


def is_published_dense(state: dict[str, Tensor]) -> bool:
    """True for weights of a dense model under the published names."""
    return any(
        name.startswith(("backbone.patch_proj.", "backbone.norms.0.norm.", "backbone.norms.1.norm.")) for name in state
    )


def rename_published_dense(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Published names and shapes of a dense model -> those of `model`.

    Args:
        state: published `state_dict`.
        model: our model of the same architecture.
    """
    prefix = "backbone."
    body = {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if name.startswith(prefix) and not name.startswith("backbone.norms.")
    }
    own = model.state_dict()
    inner = "backbone.body.model." if any(name.startswith("backbone.body.model.") for name in own) else "backbone.body."
    renamed = {inner + name: value for name, value in rename_published(body).items()}
    first = 4 - len(model.backbone.norms)  # RetinaNet has no norm 0
    laterals = len(model.backbone.norms)
    for name, value in state.items():
        if name.startswith("backbone.norms."):
            new = re.sub(r"norms\.(\d+)\.norm\.", lambda m: f"norms.{int(m[1]) - first}.", name)
        elif not name.startswith(prefix):
            new = _rename_head(name, laterals, "roi_head.bbox_head.0." in " ".join(state))
        else:
            continue
        renamed[new] = value
    return renamed


def _rename_head(name: str, laterals: int, cascade: bool) -> str:
    """Name of a parameter of neck or head."""
    name = re.sub(r"^neck\.lateral_convs\.(\d+)\.conv\.", r"neck.inner_blocks.\1.0.", name)
    match = re.match(r"^neck\.fpn_convs\.(\d+)\.conv\.(.*)", name)
    if match:
        level = int(match[1])
        block = f"layer_blocks.{level}.0" if level < laterals else f"extra_blocks.convs.{level - laterals}"
        return f"neck.{block}.{match[2]}"
    if not cascade:  # a single stage is stage 0 here
        name = re.sub(r"^roi_head\.(bbox_head|mask_head)\.", r"roi_head.\1.0.", name)
    return name
