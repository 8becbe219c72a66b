"""Translation of parameter names in released segmentation and detection checkpoints."""

import re
from collections.abc import Iterable

from torch import Tensor, nn

from dat_train.models.weights.published_names import is_published, rename_published

PUBLISHED_WIDTHS = {64: "t", 96: "s", 128: "b"}  # channels of the first stage
HEADS = {"decode_head", "bbox_head", "roi_head"}


def is_published_dense(state: dict[str, Tensor]) -> bool:
    """True for weights of a dense model under the published names."""
    return any(
        name.startswith(("backbone.patch_proj.", "backbone.norms.0.norm.", "backbone.norms.1.norm.")) for name in state
    )


def published_experiment(state: dict[str, Tensor]) -> str | None:
    """Name of the experiment (conf/experiment) of a published dense model, from its weights; None for others.

    Detectors get the name with the long schedule if both were published, because the models are the same.
    """
    marks = {
        "upernet_datpp_{}": "decode_head.psp_modules.",
        "semantic_fpn_datpp_{}": "decode_head.scale_heads.",
        "cascade_mask_rcnn_datpp_{}_3x": "roi_head.bbox_head.0.",
        "mask_rcnn_datpp_{}_3x": "roi_head.bbox_head.",
        "retinanet_datpp_{}_3x": "bbox_head.retina_cls.",
    }
    heads = [name for name, mark in marks.items() if any(key.startswith(mark) for key in state)]
    stem = state.get("backbone.patch_proj.3.weight")
    size = None if stem is None else PUBLISHED_WIDTHS.get(stem.shape[0])
    return heads[0].format(size) if heads and size and is_published_dense(state) else None


def adapt_state(model: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Adapt weights of a released or own dense model, or of a classifier, to a dense model.

    Only the backbone is taken from a classifier; all other parameters keep their values.

    Args:
        model: segmentation model or detector.
        state: weights by name.

    Returns:
        Weights by the model's names, and the changes in words.
    """
    if is_published_dense(state):
        return rename_published_dense(state, model), ["renamed the published parameters"]
    own = model.state_dict()
    if any(name.startswith("backbone.") for name in state):
        heads = {name.partition(".")[0] for name in state} & HEADS
        if not heads or heads & {name.partition(".")[0] for name in own}:
            return state, []
        body = {name: value for name, value in state.items() if name.startswith("backbone.body.") and name in own}
        return own | body, ["weights of another dense task: taken for the backbone; all else stays as initialized"]
    notes = ["weights of a classifier: taken for the backbone; norms of the outputs and heads stay as initialized"]
    if is_published(state):
        state = rename_published(state)
        notes.insert(0, "renamed the published parameters")
    inner = _inner_prefix(own)
    body = [name for name in own if name.startswith(inner)]
    found = {name: state[name.removeprefix(inner)] for name in body if name.removeprefix(inner) in state}
    return (own | found if len(found) == len(body) else found), notes


def _inner_prefix(own: Iterable[str]) -> str:
    """Prefix of the timm model's names among a dense model's own."""
    wrapped = any(name.startswith("backbone.body.model.") for name in own)
    return "backbone.body.model." if wrapped else "backbone.body."


def rename_published_dense(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Translate published names and shapes of a dense model to those of `model`.

    Args:
        state: published `state_dict`.
        model: our model of the same architecture.
    """
    laterals = len(model.backbone.norms)
    cascade = any(name.startswith("roi_head.bbox_head.0.") for name in state)
    body, renamed = {}, {}
    for name, value in state.items():
        if norm := re.fullmatch(r"backbone\.norms\.(\d+)\.norm\.(.+)", name):
            renamed[f"backbone.norms.{int(norm[1]) + laterals - 4}.{norm[2]}"] = value  # RetinaNet has no norm 0
        elif name.startswith("backbone."):
            body[name.removeprefix("backbone.")] = value
        else:
            renamed[_rename_head(name, laterals, cascade)] = value
    inner = _inner_prefix(model.state_dict())
    return {inner + name: value for name, value in rename_published(body).items()} | renamed


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
