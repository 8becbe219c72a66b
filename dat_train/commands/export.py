"""dat-export: a trained model for timm and the Hugging Face hub, as ONNX, or as a torch.export program."""

from typing import TYPE_CHECKING

from dat_train.commands.cli import run_command
from dat_train.commands.command import Command
from dat_train.config import ExportConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    name="export",
    schema=ExportConfig,
    groups=("model", "data"),
    usage="""\
dat-export ckpt=PATH format=FORMAT [SETTING=VALUE ...]     take a trained model elsewhere

  dat-export ckpt=runs/digits/checkpoints/best.pt                             a folder for timm and the Hub
  dat-export ckpt=runs/digits/checkpoints/best.pt format=onnx int8=true       ONNX, also in 8 bits
  dat-export ckpt=runs/digits/checkpoints/best.pt format=torch_export         a .pt2 file
  dat-export model=dat_t ckpt=dat_tiny_in1k_224.pth format=onnx               released weights""",
    notes="""\
safetensors    model.safetensors, config.json with preprocessing and class names, README.md, the model card:
               timm.create_model("local-dir:FOLDER", pretrained=True) after import dat_train.models
onnx           model.onnx for any batch, preprocessing.json, with int8=true model.int8.onnx; needs onnx, onnxruntime
               and onnxscript (the extra "export")
torch_export   model.pt2 for any batch, preprocessing.json

Every export is loaded again and compared with the checkpoint: equal logits for safetensors, within 1e-4 for the others.
validate=true also compares accuracies on the validation set, which has to be where it was in training, or data.root=
says where.""",
)


def main() -> None:
    run_command(COMMAND, export)


def export(config: "DictConfig") -> None:
    from dat_train.commands.export_run import run  # imports torch, which help and mistakes do without

    run(config)


if __name__ == "__main__":
    main()
