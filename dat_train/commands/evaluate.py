"""dat-eval: evaluate a checkpoint, ours or a released one, on a validation set."""

from typing import TYPE_CHECKING

from dat_train.commands.cli import run_command
from dat_train.commands.command import Command
from dat_train.config import EvalConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    name="eval",
    schema=EvalConfig,
    groups=("model", "data"),
    usage="""\
dat-eval ckpt=PATH [SETTING=VALUE ...]     evaluate a checkpoint on a validation set

  dat-eval ckpt=runs/dat_s-imagenet/checkpoints/best.pt                  as it was trained
  dat-eval ckpt=... img_size=384                                         at another resolution
  dat-eval ckpt=... img_sizes=[192,224,256]                              at several, with a table
  dat-eval ckpt=... data=imagenet_a data.root=/data/imagenet-a           another test set, the classes it has
  dat-eval model=dat_t data=imagenet data.root=/data/imagenet ckpt=dat_tiny_in1k_224.pth     released weights""",
    notes="""\
Everything not said is as the checkpoint was trained. eval.resize: the authors resize to a square whatever the aspect
ratio ("squash") and then crop, which their numbers need; timm and torchvision resize the short side ("short_side").""",
)


def main() -> None:
    run_command(COMMAND, evaluate)


def evaluate(config: "DictConfig") -> None:
    from dat_train.commands.evaluation_run import run  # imports torch, which help and mistakes do without

    run(config)


if __name__ == "__main__":
    main()
