"""dat-train: train a model, or go on training it."""

from typing import TYPE_CHECKING

from dat_train.commands.cli import run_command

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    run_command("train", train)


def train(config: "DictConfig") -> None:
    from dat_train.commands.training_run import run  # imports torch, which help and mistakes do without

    run(config)


if __name__ == "__main__":
    main()
