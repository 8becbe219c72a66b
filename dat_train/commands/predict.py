"""dat-predict: what a trained model sees in images."""

from typing import TYPE_CHECKING

from dat_train.commands.cli import run_command
from dat_train.commands.command import Command
from dat_train.config import PredictConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    name="predict",
    schema=PredictConfig,
    groups=("model",),
    usage="""\
dat-predict ckpt=PATH IMAGE ... [SETTING=VALUE ...]     the most probable classes of images

  dat-predict ckpt=runs/digits/checkpoints/best.pt photo.jpg more/photos      files and folders
  dat-predict ckpt=... 'holiday/**/*.jpg' top=1                               a pattern
  find . -name '*.png' | dat-predict ckpt=... - format=csv output=found.csv   a list
  dat-predict model=dat_t ckpt=dat_tiny_in1k_224.pth photo.jpg                released weights""",
    notes="""\
ckpt is a checkpoint of dat-train, a folder written by dat-export, or released weights with model=NAME. Images are told
in the order they were named. One that cannot be read is reported and left out, and the exit code is 1 at the end.
format=csv has a row for each image: path, class and probability of the first, of the second, ...; format=jsonl an
object: {"path": ..., "top": [{"class": ..., "index": ..., "probability": ...}, ...]}.""",
    positional="images",
)


def main() -> None:
    run_command(COMMAND, predict)


def predict(config: "DictConfig") -> None:
    from dat_train.commands.prediction_run import run  # imports torch, which help and mistakes do without

    run(config)


if __name__ == "__main__":
    main()
