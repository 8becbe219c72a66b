"""Golden records: what the published implementation computes for small models with formula weights."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from dat_train.models import DAT
from dat_train.models.weights.published_names import rename_published
from golden.weights import formula_image, formula_state_dict

FOLDER = Path(__file__).parent
CVPR = sorted(path.stem for path in FOLDER.glob("dat_cvpr_*.json"))
DATPP = sorted(path.stem for path in [*FOLDER.glob("dat_pp_*.json"), *FOLDER.glob("dat_p_*.json")])


@dataclass
class Golden:
    """One record: the JSON file, the tensors, and our model with the formula weights."""

    record: dict
    tensors: dict[str, Tensor]
    model: DAT
    images: Tensor


def load_golden(name: str) -> Golden:
    record = json.loads((FOLDER / f"{name}.json").read_text())
    model = build(record["config"])
    missing, unexpected = model.load_state_dict(rename_published(formula_state_dict(record)), strict=False)
    assert not missing and not unexpected
    return Golden(record, load_file(FOLDER / f"{name}.safetensors"), model.eval(), formula_image(2, 128, 128))


def build(config: dict, **changes) -> DAT:
    """Our model for a record's published configuration keys."""
    datpp = "use_lpus" in config
    arguments = {
        "img_size": config["img_size"],
        "num_classes": config["num_classes"],
        "dims": config["dims"],
        "depths": config["depths"],
        "num_heads": config["heads"],
        "blocks": ["".join(letters) for letters in config["stage_spec"]],
        "window_size": config["window_sizes"],
        "kernel_size": config.get("nat_ksizes", 7),
        "groups": [max(groups, 1) for groups in config["groups"]],
        "strides": [max(stride, 1) for stride in config["strides"]],
        "offset_kernels": config.get("ksizes", (9, 7, 5, 3)),
        "offset_range_factor": [factor if factor > 0 else None for factor in config["offset_range_factor"]],
        "position_bias": [_bias(config, stage) for stage in range(4)],
        "offsets": [not off for off in config["no_offs"]],
        "geometry": "dat++" if datpp else "cvpr",
        "conv_stem": config["use_conv_patches"],
        "dwconv_mlp": config["use_dwc_mlps"],
        "local_perception": config.get("use_lpus", False),
        "layer_scale": config.get("layer_scale_values"),
    }
    return DAT(**arguments | changes)


def _bias(config: dict, stage: int) -> str:
    if not config["use_pes"][stage]:
        return "none"
    for key, bias in (("dwc_pes", "dwc"), ("fixed_pes", "fixed"), ("log_cpb", "log_cpb")):
        if config.get(key, [False] * 4)[stage]:
            return bias
    return "table"
