"""Published sizes, and one for small images, as timm models (docs/model.md, "Sizes")."""

from contextlib import nullcontext

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from dat_train.models.dat import DAT
from dat_train.models.legacy_names import current_arguments
from dat_train.models.weights.published_names import rename_published
from dat_train.models.weights.published_weights import PUBLISHED, SCHEME

CVPR = {  # arguments of all CVPR models, in addition to the defaults of DAT
    "blocks": ("LS", "LS", "LD", "LD"),
    "offset_kernels": (9, 7, 5, 3),
    "strides": 1,
    "offset_range_factor": 2.0,
    "position_bias": "table",
    "geometry": "cvpr",
    "window_size": 7,
}
DATPP = {  # arguments of all DAT++ models
    "depths": (2, 4, 18, 2),
    "blocks": ("ND", "ND", "ND", "DD"),
    "offset_kernels": (9, 7, 5, 3),
    "strides": (8, 4, 2, 1),
    "offset_range_factor": None,
    "position_bias": "table",
    "geometry": "dat++",
    "kernel_size": 7,
    "conv_stem": True,
    "dwconv_mlp": True,
    "local_perception": True,
}
WIDE = {"dims": (96, 192, 384, 768), "num_heads": (3, 6, 12, 24)}
WIDER = {"dims": (128, 256, 512, 1024), "num_heads": (4, 8, 16, 32)}
SIZES = {  # CVPR 2022, tables 1 and 2; DAT++, table 1
    "dat_tiny": CVPR | WIDE | {"depths": (2, 2, 6, 2), "groups": (1, 1, 3, 6)},
    "dat_small": CVPR | WIDE | {"depths": (2, 2, 18, 2), "groups": (1, 1, 3, 6)},
    "dat_base": CVPR | WIDER | {"depths": (2, 2, 18, 2), "groups": (1, 1, 4, 8)},
    # for small images, not published: patches of 2 pixels; deformable attention from stage 2 on, 8x8 map for 32 pixels
    "dat_nano": CVPR
    | {
        "dims": (32, 64, 96, 160),
        "depths": (2, 2, 4, 2),
        "num_heads": (1, 2, 3, 5),
        "groups": (1, 2, 3, 5),
        "blocks": ("LS", "LD", "LD", "LD"),
        "patch_size": 2,
        "window_size": 4,
    },
    "datpp_tiny": DATPP | {"dims": (64, 128, 256, 512), "num_heads": (2, 4, 8, 16), "groups": (1, 2, 4, 8)},
    "datpp_small": DATPP | WIDE | {"groups": (1, 2, 3, 6)},
    "datpp_base": DATPP | WIDER | {"groups": (2, 4, 8, 16)},
}
SIZES["dat_base_384"] = SIZES["dat_base"] | {"window_size": 12}
# for inputs of 384 pixels, with the bias tables of the model for 224
SIZES["datpp_base_384"] = SIZES["datpp_base"] | {"img_size": 224}
# DAT-P: DAT-T++ with the CVPR stem, downsampling and MLP (DAT++, roadmap)
SIZES["datp_tiny"] = SIZES["datpp_tiny"] | {"conv_stem": False, "dwconv_mlp": False, "local_perception": False}

CONFIGURATIONS = {  # arguments of `_configuration`
    "dat_base_384": {"size": 384, "crop_pct": 384 / 438},
    "dat_nano": {"size": 32, "pool_size": (2, 2), "crop_pct": 1.0, "num_classes": 10},
    "datpp_base_384": {"size": 384, "crop_pct": 1.0},
}


def _configuration(name: str, size: int = 224, **entries) -> dict:
    """timm's configuration for inputs of `size` pixels, with the source of the published weights if there are any.

    The authors resize the whole image to a square before the central crop, which timm calls "squash".
    """
    weights = {"file": f"{SCHEME}{name}", "custom_load": True, "crop_mode": "squash"} if name in PUBLISHED else {}
    return (
        {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, size, size),
            "pool_size": (size // 32, size // 32),
            "min_input_size": (3, 32, 32),
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "stem.conv",
            "classifier": "head.fc",
            "license": "apache-2.0",
            "paper_ids": "arXiv:2309.01430" if name.startswith("datp") else "arXiv:2201.00520",
        }
        | entries
        | weights
    )


default_cfgs = generate_default_cfgs({name: _configuration(name, **CONFIGURATIONS.get(name, {})) for name in SIZES})


def _create(
    name: str, pretrained: bool, device: torch.device | str | None = None, dtype: torch.dtype | None = None, **kwargs
) -> DAT:
    """Model of a registered size; device and dtype are those of the weights, as in timm."""
    size = default_cfgs[name].default.input_size[-1]
    with torch.device(device) if device is not None else nullcontext():
        model = build_model_with_cfg(
            DAT,
            name,
            pretrained,
            pretrained_filter_fn=rename_published,
            feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
            **({"img_size": size} | SIZES[name] | current_arguments(kwargs)),
        )
    return model.to(dtype=dtype)


def _register(name: str) -> None:
    """Register a size in timm, for timm.create_model(name, ...)."""

    def create(pretrained: bool = False, **kwargs) -> DAT:
        return _create(name, pretrained, **kwargs)

    create.__name__ = create.__qualname__ = name
    globals()[name] = register_model(create)


for _name in SIZES:
    _register(_name)
