"""dat-train: train a model, or go on training it."""

from typing import TYPE_CHECKING

from dat_train.commands.cli import run_command
from dat_train.commands.command import Command
from dat_train.config import TrainConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    name="train",
    schema=TrainConfig,
    groups=("model", "data", "augment", "experiment", "ablation"),
    usage="""\
dat-train model=MODEL data=DATA [SETTING=VALUE ...]     train a Deformable Attention Transformer

  dat-train experiment=digits                                            a demo: minutes on two CPU cores
  dat-train model=dat_s data=imagenet data.root=/data/imagenet           the paper's recipe
  torchrun --nproc_per_node=8 -m dat_train.commands.train model=dat_s data=imagenet data.root=/data/imagenet
  dat-train model=dat_t data=folder data.root=/my/photos epochs=50       your own images and classes
  dat-train ... show_batch=true                                          look at one augmented batch first

The same command again continues the run where it stopped.""",
    notes="""\
Results: RUNS_DIR/NAME/ with config.yaml, metrics.jsonl, summary.json, curves.png, checkpoints/last.pt and best.pt.
--cfg job            show the settings as they are composed, without running
--multirun           run every combination of several values, as in optim.lr=1e-3,2e-3 seed=0,1
--config-dir DIR     look for .yaml files of models, data, experiments ... in a folder of yours, too

Settings marked * may change when a run is continued. A model's own recipe may set others than the defaults
below (conf/recipe/).""",
)


def main() -> None:
    run_command(COMMAND, train)


def train(config: "DictConfig") -> None:
    from dat_train.commands.training_run import run  # imports torch, which help and mistakes do without

    run(config)


if __name__ == "__main__":
    main()
