"""Folder for timm and the Hugging Face hub: weights, configuration, model card."""

from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from timm.models import save_for_hf
from torch import nn

from dat_train.errors import UserError
from dat_train.export.preprocessing import Preprocessing


def write_timm_folder(
    model: nn.Module,
    folder: Path,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    card: str,
    *,
    task: str = "classification",
) -> None:
    """Write model.safetensors, config.json and README.md into `folder`, load the folder with timm, and compare logits.

    timm writes the first two files. In config.json, `architecture` is the registered name, `model_args` the further
    arguments of timm.create_model, `label_names` the classes, `pretrained_cfg` the preprocessing.

    Args:
        model: created by timm.create_model, on the CPU.
        card: text of README.md.
        task: setting of the training, read by the commands of dat-train only.

    Raises:
        UserError: the loaded model gives different logits.
    """
    save_for_hf(
        model,
        str(folder),
        model_config={"label_names": list(classes), "task": task},
        safe_serialization=True,
        data_config=preprocessing.as_timm(),
    )
    (folder / "README.md").write_text(card, encoding="utf-8", errors="backslashreplace")
    loaded = load_timm_folder(folder)
    images = torch.randn(2, *preprocessing.input_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if not torch.equal(loaded(images), model.eval()(images)):
            raise UserError(
                f"the exported folder, loaded by timm {timm.__version__}, gives other logits than the checkpoint; "
                "nothing was written; try format=onnx, or another version of timm"
            )


def load_timm_folder(folder: Path) -> nn.Module:
    """The model in `folder`, in evaluation mode."""
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
