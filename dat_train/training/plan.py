"""Plan of a run in steps, derived from epochs, batch sizes and the number of processes."""

from dataclasses import dataclass

from dat_train.errors import UserError
from dat_train.training.schedule import Schedule


@dataclass(frozen=True)
class RunPlan:
    """Numbers of steps, micro-batches and epochs of a run.

    A step consumes `batch_size` samples, split into `micro_batches` micro-batches; process m % world_size computes
    micro-batch m. The last incomplete batch of an epoch is dropped, as in DeiT and Swin.

    Args:
        train_size: samples of one epoch.
        epochs: length of the learning-rate schedule, and of the run unless `max_steps` ends it before.
        schedule: learning rate; its warm-up is part of `epochs`.
        length: steps of the schedule, instead of `epochs`.
        eval_steps: steps between validations, instead of epochs.
        pairs: mixup or cutmix pair the images of a micro-batch, whose size must be even.

    Raises:
        UserError: batch_size is not a multiple of micro_batch_size * world_size, or larger than the training set; or an
            odd micro_batch_size with `pairs`.
    """

    train_size: int
    epochs: int
    max_steps: int | None
    batch_size: int
    micro_batch_size: int
    world_size: int
    schedule: Schedule
    length: int | None = None
    eval_steps: int | None = None
    pairs: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batch_size", "max_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}={value} must be at least 1")
        unit = self.micro_batch_size * self.world_size
        if self.train_size < self.batch_size:
            raise UserError(
                f"batch_size={self.batch_size} is larger than the training set of {self.train_size} images; "
                f"use {self._fitting(unit)}"
            )
        if self.pairs and self.micro_batch_size % 2:
            raise UserError(
                f"mixup and cutmix pair images, and micro_batch_size={self.micro_batch_size} is odd; use "
                f"{self._even()}, or mixing.mixup=0 mixing.cutmix=0"
            )
        if self.batch_size % unit:
            raise UserError(
                f"batch_size={self.batch_size} is not a multiple of micro_batch_size * world_size = {unit}; "
                f"{self._nearest(unit)}"
            )
        if self.schedule.name == "step" and round(self.schedule.step_epochs * self.steps_per_epoch) < 1:
            raise UserError(
                f"schedule.step_epochs={self.schedule.step_epochs:g} is less than a step; an epoch has "
                f"{self.steps_per_epoch:,} steps, so it must be at least {1 / self.steps_per_epoch:.3g}"
            )
        self._check_warmup()

    def _check_warmup(self) -> None:
        """Check that the warm-up is not longer than the schedule; with `warmup_factor` it may be."""
        schedule = self.schedule
        if schedule.warmup_factor is not None or self.warmup_steps <= self.scheduled_steps:
            return
        if schedule.warmup_steps is not None:
            raise UserError(
                f"schedule.warmup_steps={schedule.warmup_steps} is longer than the schedule of {self.scheduled_steps} "
                f"steps, inside which the warm-up counts; use schedule.warmup_steps={self.scheduled_steps // 10}"
            )
        length = f"steps={self.length}" if self.length else f"epochs={self.epochs}"
        raise UserError(
            f"schedule.warmup_epochs={schedule.warmup_epochs:g} is longer than {length}, inside which "
            f"the warm-up counts; use schedule.warmup_epochs={self.scheduled_steps // self.steps_per_epoch // 10}"
        )

    def _nearest(self, unit: int) -> str:
        """Proposal for a batch_size that is not a multiple of `unit`: nearest batch sizes, or a micro-batch size."""
        below = self.batch_size // unit * unit
        possible = [str(value) for value in (below, below + unit) if 0 < value <= self.train_size]
        # `share`: images of one process. An odd micro-batch size is proposed only in place of an odd one, because mixup
        # needs an even one.
        share = self.batch_size // self.world_size if self.batch_size % self.world_size == 0 else 0
        smaller = range(min(self.micro_batch_size, share), 1, -1)
        micro = next((m for m in smaller if share % m == 0 and (m % 2 == 0 or self.micro_batch_size % 2)), None)
        ways = [f"nearest: {', '.join(possible)}"] if possible else []
        ways += [f"micro_batch_size={micro}"] if micro else []
        return ", or ".join(ways) if possible else f"use {ways[0] if ways else self._fitting(unit)}"

    def _even(self) -> str:
        """Proposal with an even micro-batch size and the nearest possible batch size."""
        for distance in range(self.batch_size):
            for batch in (self.batch_size - distance, self.batch_size + distance):
                share = batch // self.world_size if batch % self.world_size == 0 and batch <= self.train_size else 0
                even = range(self.micro_batch_size + 1, 1, -2)
                micro = next((m for m in even if share and share % m == 0), None)
                if micro:
                    return (
                        f"micro_batch_size={micro}" if not distance else f"batch_size={batch} micro_batch_size={micro}"
                    )
        return "an even one"

    def _fitting(self, unit: int) -> str:
        """Proposal of a batch size, and a micro-batch size if needed, that fit the training set."""
        if self.train_size >= unit:
            return f"batch_size={self.train_size // unit * unit}"
        if share := self.train_size // self.world_size:
            share -= share % 2 if share > 1 and self.micro_batch_size % 2 == 0 else 0  # mixup pairs images
            return f"batch_size={share * self.world_size} micro_batch_size={share}"
        return f"at most {self.train_size} processes, with batch_size={self.train_size} micro_batch_size=1"

    @property
    def steps_per_epoch(self) -> int:
        return self.train_size // self.batch_size

    @property
    def scheduled_steps(self) -> int:
        """Number of steps of the learning-rate schedule."""
        return self.length or self.epochs * self.steps_per_epoch

    @property
    def steps(self) -> int:
        """Number of steps of the run."""
        return self.scheduled_steps if self.max_steps is None else min(self.max_steps, self.scheduled_steps)

    @property
    def warmup_steps(self) -> int:
        return self.schedule.warmup_length(self.steps_per_epoch)

    @property
    def micro_batches(self) -> int:
        """Number of micro-batches of one step, over all processes."""
        return self.batch_size // self.micro_batch_size

    def micro_batches_of(self, rank: int) -> range:
        """Indices of the micro-batches of one step that process `rank` computes."""
        return range(rank, self.micro_batches, self.world_size)

    def learning_rate(self, step: int) -> float:
        """Learning rate of the update from `step` to `step` + 1."""
        return self.schedule.rate(step, self.scheduled_steps, self.steps_per_epoch)

    def epochs_done(self, step: int) -> int:
        return step // self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Returns True if an epoch is complete after `step` steps."""
        return step > 0 and step % self.steps_per_epoch == 0

    def is_validation_step(self, step: int, every_epochs: int) -> bool:
        """Returns True if step `step` is followed by a validation: every `every_epochs` epochs, and at the end."""
        if self.eval_steps:
            return step == self.steps or (step > 0 and step % self.eval_steps == 0)
        return step == self.steps or (self.ends_epoch(step) and self.epochs_done(step) % every_epochs == 0)

    def describe(self) -> list[tuple[str, str]]:
        """(topic, text) pairs for the terminal."""
        length = f"{self.steps:,} steps = {self.steps / self.steps_per_epoch:.4g} epochs of {self.steps_per_epoch:,}"
        if self.steps < self.scheduled_steps:
            epochs = "" if self.length else f"{self.epochs} epochs = "
            length += f" (max_steps; the schedule is that of {epochs}{self.scheduled_steps:,} steps)"
        batch = f"{self.batch_size}"
        if self.micro_batches > 1:
            batch += f" = {self.micro_batches} micro-batches of {self.micro_batch_size}"
        if self.world_size > 1:
            batch += f" on {self.world_size} processes"
        if self.micro_batches > self.world_size:
            batch += f", in {self.micro_batches // self.world_size} turns"
        return [("length", length), ("batch", batch), ("lr", self.schedule.text(self.warmup_steps))]
