"""TensorBoard's event files."""

from pathlib import Path

import yaml

from dat_train.training.loggers.logger import About, named_values


class TensorBoardLogger:
    """Writer of event files in `folder`, which `tensorboard --logdir runs` finds.

    Repeated steps, in a resumed or rewound run, replace the earlier ones.

    Args:
        step: steps done so far.
        about: description of the run, shown as text.
    """

    def __init__(self, folder: Path, step: int, about: About) -> None:
        self.folder = folder
        self._open(step)
        self._writer.add_text("configuration", _block(about.config), step)
        self._writer.add_text("environment", _block(about.environment), step)

    def _open(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # the reader drops events from purge_step on, which a killed process may have left
        self._writer = SummaryWriter(self.folder, purge_step=step + 1)
        self._step = step

    def log(self, group: str, row: dict) -> None:
        if group == "train":
            if row["step"] <= self._step:
                self._writer.close()
                self._open(row["step"] - 1)
            self._step = row["step"]
        for name, value in named_values(group, row).items():
            self._writer.add_scalar(name, value, row["step"])
        if group == "validation":
            self._writer.flush()  # shows validations without delay

    def log_picture(self, name: str, path: Path, step: int) -> None:
        import numpy as np
        from PIL import Image

        self._writer.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")

    def sync(self) -> None:
        """Flush the events: those before a checkpoint are not written again."""
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _block(values: dict) -> str:
    """Format settings as a code block in Markdown, the format of TensorBoard's texts."""
    return f"```\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}```"
