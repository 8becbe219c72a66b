"""dat-visualize: see where a model looks in an image."""

from typing import TYPE_CHECKING

from dat_train.commands.cli import run_command
from dat_train.commands.command import Command
from dat_train.config import VisualizeConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    name="visualize",
    schema=VisualizeConfig,
    groups=("model",),
    usage="""\
dat-visualize ckpt=PATH image=PATH [SETTING=VALUE ...]     see where a model looks in an image

  dat-visualize ckpt=runs/digits/checkpoints/best.pt image=data/digits/val/8/0008.png
  dat-visualize ckpt=... image=my/photos                                 every image of a folder
  dat-visualize ckpt=... image=cat.jpg query=[112,80]                    the attention of one point
  dat-visualize model=dat_t ckpt=dat_tiny_in1k_224.pth image=cat.jpg     released weights""",
    notes="""\
For each image, in OUTPUT/IMAGE/: look.html, a page to explore attention with the mouse, keyboard or a finger;
points.png and points_stageS_blockB.png (the deformed points), attention.png, heat.png, traced.png, predictions.png.
Everything is drawn on the model's input: the image after eval.resize and its crop.""",
)


def main() -> None:
    run_command(COMMAND, visualize)


def visualize(config: "DictConfig") -> None:
    from dat_train.commands.visualization_run import run  # imports torch, which help and mistakes do without

    run(config)


if __name__ == "__main__":
    main()
