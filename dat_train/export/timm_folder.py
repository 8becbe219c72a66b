"""A folder that timm loads and the Hugging Face hub takes as it is: weights, configuration, model card."""

from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from timm.models import save_for_hf
from torch import nn

from dat_train.errors import UserError
from dat_train.export.preprocessing import Preprocessing


def write_timm_folder(
    model: nn.Module, folder: Path, classes: Sequence[str], preprocessing: Preprocessing, card: str
) -> None:
    """Write model.safetensors, config.json and README.md into `folder`, and load it as a stranger would.

    timm's own writer makes the first two: `architecture` is the registered name, `model_args` what else the model was
    created with, `label_names` the classes, `pretrained_cfg` the preprocessing.

    Args:
        model: made by timm.create_model, on the CPU.
        card: text of README.md.

    Raises:
        UserError: the loaded model gives other logits.
    """
    save_for_hf(
        model,
        str(folder),
        model_config={"label_names": list(classes)},
        safe_serialization=True,
        data_config=preprocessing.as_timm(),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    loaded = load_timm_folder(folder)
    images = torch.randn(2, *preprocessing.as_timm()["input_size"], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if not torch.equal(loaded(images), model.eval()(images)):
            raise UserError(f"{folder}: as timm {timm.__version__} loads it, its logits differ from the checkpoint's")


def load_timm_folder(folder: Path) -> nn.Module:
    """The model in `folder`, in evaluation mode."""
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
