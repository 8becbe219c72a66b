"""dat-average: one model from the weights of several."""

from typing import TYPE_CHECKING

from dat_train.commands.cli import run_command
from dat_train.commands.command import Command
from dat_train.config import AverageConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    name="average",
    schema=AverageConfig,
    groups=("model", "data"),
    usage="""\
dat-average CKPT CKPT ... [SETTING=VALUE ...]     average the weights of several checkpoints

  dat-average runs/tuned-*/checkpoints/best.pt output=soup.pt                  their mean
  dat-average runs/tuned-*/checkpoints/best.pt kind=greedy output=soup.pt      those that help (validation data)""",
    notes="""\
For models fine-tuned from the same weights (Wortsman et al., ICML 2022), or checkpoints of one run; models trained from
different beginnings have no sensible average. What is written is a checkpoint for dat-eval and init=.
kind=greedy chooses on the validation data of the first checkpoint, or data=NAME; test it on other images.""",
    positional="ckpt",
)


def main() -> None:
    run_command(COMMAND, average)


def average(config: "DictConfig") -> None:
    from dat_train.commands.average_run import run  # imports torch, which help and mistakes do without

    run(config)


if __name__ == "__main__":
    main()
