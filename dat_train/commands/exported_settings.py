"""The settings of a model that was exported for timm, as of a training run."""

from typing import Any

from dat_train.errors import UserError

# what timm notes among a model's arguments and we have settings of our own, or the weights' shapes, for
NOT_ARGUMENTS = ("num_classes", "img_size", "in_chans", "global_pool", "drop_path_rate")


def settings_of_timm(config: dict[str, Any]) -> dict[str, Any]:
    """model, data's normalisation, img_size and eval from a config.json, as `Preprocessing.as_timm` wrote it.

    Raises:
        UserError: a model that takes no RGB square, or a way of cropping that we do not have.
    """
    name, view, arguments = config["architecture"], config["pretrained_cfg"], config.get("model_args", {})
    channels, *size = view["input_size"]
    resize = {"center": "short_side", "squash": "squash"}.get(view.get("crop_mode", "center"))
    if channels != 3 or size[0] != size[1] or resize is None:
        raise UserError(
            f"config.json says input_size={view['input_size']}, crop_mode={view.get('crop_mode')}; images here are RGB "
            "squares, cropped in the centre"
        )
    native = arguments.get("img_size", size[0])
    return {
        "model": {
            "name": name,
            "timm_name": name,
            "img_size": native if isinstance(native, int) else native[0],
            "drop_path_rate": 0.0,
            "args": {key: value for key, value in arguments.items() if key not in NOT_ARGUMENTS},
        },
        "data": {"mean": list(view["mean"]), "std": list(view["std"])},
        "img_size": size[0],
        "eval": {"resize": resize, "crop_pct": view["crop_pct"], "interpolation": view["interpolation"]},
    }
