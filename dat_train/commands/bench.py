"""dat-bench: how fast models are and how much memory they take, ours beside any of timm's."""

from typing import TYPE_CHECKING

from dat_train.commands.cli import run_command
from dat_train.commands.command import Command
from dat_train.config import BenchConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    name="bench",
    schema=BenchConfig,
    groups=("model",),
    usage="""\
dat-bench [models|attention] [SETTING=VALUE ...]     measure speed and memory

  dat-bench model=dat_t baseline=swin_tiny_patch4_window7_224            beside timm's Swin-T
  dat-bench others=[dat_small,resnet50] modes=[inference] chart=speed.png
  dat-bench model=dat_t dtype=bf16 compile=[false,true] json=speed.json
  dat-bench attention sizes=[7,14]                                       the attention module alone""",
    notes="""\
Everything is measured in one process, in turns; the numbers are medians, `spread` is the distance between the
quartiles as a share of the median, ratios are medians over rounds. Warm-up calls are not reported. Peak memory: on
CUDA what the allocator gave out; elsewhere the tensors that live at once, counted operator by operator, which does
not depend on the moment as a process' resident memory would.""",
    positional="what",
)


def main() -> None:
    run_command(COMMAND, bench)


def bench(config: "DictConfig") -> None:
    from dat_train.commands.benchmark_run import run  # imports torch, which help and mistakes do without

    run(config)


if __name__ == "__main__":
    main()
