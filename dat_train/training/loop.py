"""The training loop."""

import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dat_train.data.batch import Batch, prepare_images
from dat_train.data.mixing import Mixing
from dat_train.data.randomness import keyed_seed
from dat_train.errors import UserError
from dat_train.evaluation.classification import Evaluation, evaluate
from dat_train.runtime.feed import Feed
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes
from dat_train.runtime.stop_request import StopRequest
from dat_train.training.freezing import training_mode
from dat_train.training.objective import cross_entropy
from dat_train.training.optimizer import set_learning_rate
from dat_train.training.plan import RunPlan
from dat_train.training.run_log import RunLog
from dat_train.training.run_pictures import RunPictures
from dat_train.training.state import TrainState
from dat_train.training.writer import CheckpointWriter
from dat_train.viewer.offsets import OffsetMonitor


@dataclass(kw_only=True)
class Training:
    """A training run; `run()` is the loop.

    What comes out is a function of the first group of arguments alone, up to the order of floating-point sums: every
    random draw is keyed by (seed, step, micro-batch), the learning rate follows from the step. The host waits for
    the device only once in `log_every` steps, before a checkpoint and before a validation.

    Args:
        state: where to start; holds the result.
        make_loader: (first step) -> this process' micro-batches from that step on.
        val_loader: this process' share of the validation set.
        image_shape: (C, H, W) of the training images.
        objective: logits, targets (both (B, classes)) and the images they are of -> loss ().
        clip_grad: largest gradient norm; 0 leaves gradients as they are.
        max_unreadable: share of an epoch's samples that may be unreadable before the run ends.
        nonfinite_limit: steps in a row with a loss or gradient that is not finite, and no loss scale to blame, after
            which the run goes back once, and then ends.
        eval_every: epochs between validations.
        config: kept in checkpoints, for who resumes or evaluates.

        checkpoints: in the main process; None in the others.
        go_back: (restore) finds the last good checkpoint and returns its path, None when there is none; with True it
            also makes `state`, and the folder, what they were then.
        log_every: steps between lines, and between looks at how many steps were skipped.
        offsets: looks at the offsets now and then, in the main process; None: nobody does.
        pictures: of the first micro-batch and the best validations, in the main process; None: nobody wants any.
    """

    state: TrainState
    make_loader: Callable[[int], Iterable[Batch]]
    val_loader: Collection[Batch]
    plan: RunPlan
    mixing: Mixing
    image_shape: tuple[int, int, int]
    precision: Precision
    objective: Callable[[Tensor, Tensor, Tensor], Tensor] = cross_entropy
    num_classes: int
    seed: int = 0
    clip_grad: float = 5.0
    max_unreadable: float = 0.01
    nonfinite_limit: int = 20
    eval_every: int = 1
    config: dict

    processes: Processes
    log: RunLog
    checkpoints: CheckpointWriter | None
    go_back: Callable[[bool], Path | None]
    stop: StopRequest
    log_every: int = 50
    offsets: OffsetMonitor | None = None
    pictures: RunPictures | None = None
    compile: bool = False

    def run(self) -> bool:
        """Train to the end of the plan: True; or until asked to stop, after the step that is being done: False.

        Raises:
            UserError: too many skipped steps or unreadable images; the last state could not be written.
        """
        self.stop.at_once = False  # from here on there is something to save
        with self.processes.collective("first all_reduce of gradients"):
            self.forward = self._wrap()
        self.feed = Feed(self.make_loader, self.log.terminal.warn)
        self.named: set[str] = set()  # unreadable files the log has named
        self.went_back = False
        self.log.start(self.state.step)
        try:
            return self._run()
        finally:
            self.feed.close()

    def _run(self) -> bool:
        state, plan = self.state, self.plan
        if self._validation_is_due():  # the process before this one ended in between
            if not self._validate():
                return self._stop()
            self._save()

        while state.step < plan.steps:
            # One step: the gradient of `batch_size` samples over all processes, one update.
            loss, unreadable = self._gradients()
            numbers = self._update(loss)
            state.step += 1

            # What the hosts tell each other while the devices compute.
            stopping, met = self.processes.total(self.stop.requested, len(unreadable))
            self._count_unreadable(met, unreadable)
            self.log.step(state.step, plan.learning_rate(state.step - 1), state.counters["unreadable"], numbers)
            if self.offsets and self.offsets.is_due(state.step):
                self.log.also(self.offsets.measure(state.model))

            # Now and then: look at the numbers, validate, save.
            epoch_ends = plan.ends_epoch(state.step) or state.step == plan.steps
            if epoch_ends or state.step % self.log_every == 0:
                self.log.flush(state.counters)
                if state.counters["in_a_row"] >= self.nonfinite_limit:
                    self._go_back()
                    continue
            if stopping:
                return self._stop()
            if self._validation_is_due() and not self._validate():
                return self._stop()
            if epoch_ends or (self.checkpoints and self.checkpoints.due()):
                self._save()

        self._finish()
        return True

    # Set up

    def _wrap(self) -> nn.Module:
        """The model as the loop calls it; `state.model` stays what it is and shares the weights."""
        model = self.state.model
        training_mode(model)
        forward = torch.compile(model) if self.compile else model
        if self.processes.world_size == 1:
            return forward
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # newer torch renames broadcast_buffers
            forward = DistributedDataParallel(
                forward,
                broadcast_buffers=False,  # DAT's are constants
                gradient_as_bucket_view=True,
                static_graph=True,  # every weight gets a gradient in every step, where drop path drops a branch too
            )
        self._rehearse(forward)
        return forward

    def _rehearse(self, forward: nn.Module) -> None:
        """Two forward and backward passes for nothing.

        DDP counts gradients in its first pass, notes their order in the second, and then cuts its buckets anew; which
        processes' numbers are added first depends on the buckets. After a rehearsal a resumed run adds in the same
        order as one that went through. The first pass may not be one without synchronization either.
        """
        images = torch.zeros(self.plan.micro_batch_size, *self.image_shape, device=self.processes.device)
        for _ in range(2):
            with self.precision.context():
                logits = forward(images.to(self.precision.weights))
            logits.sum().backward()
            forward.zero_grad(set_to_none=False)

    # A step

    def _gradients(self) -> tuple[Tensor, list[str]]:
        """Leave the gradient of the step's loss in the weights: its mean over all micro-batches of all processes.

        Returns:
            the loss () on the device, and the unreadable files this process met.
        """
        state, plan, device = self.state, self.plan, self.processes.device
        micros = plan.micro_batches_of(self.processes.rank)
        total = torch.zeros((), device=device, dtype=self.precision.weights)
        unreadable = []
        self.forward.zero_grad(set_to_none=False)  # DDP's buckets stay where they are
        for turn, m in enumerate(micros):
            batch = self.feed.next(state.step, turn)
            unreadable += batch.unreadable
            images = prepare_images(batch, device, self.precision.weights)  # (B, 3, H, W)
            labels = batch.labels.to(device, non_blocking=True)
            images, targets = self.mixing(images, labels, "mixup", self.seed, state.step, m)  # (B, classes)
            if self.pictures and state.step == turn == 0:
                self.pictures.batch(images, targets)
            torch.manual_seed(keyed_seed("dropout", self.seed, state.step, m))
            with nullcontext() if m == micros[-1] else self._without_sync():
                with self.precision.context():
                    logits = self.forward(images)
                loss = self.objective(logits, targets.to(self.precision.weights), images)
                # DDP takes the mean over processes, of which each adds up its share of the micro-batches
                with self.processes.collective("all_reduce of gradients"):
                    state.scaler.scale(loss / len(micros)).backward()
            total += loss.detach()
        return self.processes.sum_(total / plan.micro_batches), unreadable

    def _without_sync(self) -> AbstractContextManager:
        """DDP adds gradients over the processes once a step, in the last micro-batch's backward pass."""
        return self.forward.no_sync() if self.processes.world_size > 1 else nullcontext()

    def _update(self, loss: Tensor) -> Tensor:
        """Clip, and update weights and their average, unless loss or gradient is not finite.

        Whether to skip is decided on the device, from numbers all processes share, and obeyed by the optimizer's
        kernel: nobody waits for it. The optimizer's own count of steps does not move in a skipped one.

        With fp16, gradients of a finite loss overflow whenever the scaler tries too large a scale; it then halves it.
        That is how it finds the right one, and no failure as long as the scale is above 1.

        Returns:
            (4,) on the device: loss, gradient norm before clipping, 1 if the step was skipped, 1 if it failed.
        """
        state = self.state
        set_learning_rate(state.optimizer, self.plan.learning_rate(state.step))
        state.scaler.unscale_(state.optimizer)
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), self.clip_grad or math.inf)
        skip = (~torch.isfinite(loss + norm)).float()
        scaled = state.scaler.scale(torch.ones_like(loss)) > 1  # before the scaler learns of this step
        failed = skip * ~(scaled & torch.isfinite(loss))
        state.optimizer.found_inf = skip
        state.optimizer.step()
        del state.optimizer.found_inf
        state.scaler.update()
        if state.ema:
            state.ema.update(state.model, state.step)
        return torch.stack([loss, *(number.to(loss.dtype) for number in (norm, skip, failed))])

    def _count_unreadable(self, met: int, mine: list[str]) -> None:
        """Count unreadable images of all processes, name each file once, and stop when they are too many.

        Args:
            met: by all processes in this step; mine: paths this process met.
        """
        counters, plan = self.state.counters, self.plan
        if (self.state.step - 1) % plan.steps_per_epoch == 0:
            counters["unreadable_now"] = 0
        if not met:
            return
        counters["unreadable"] += met
        counters["unreadable_now"] += met
        for path in sorted({path for paths in self.processes.gather(mine) for path in paths} - self.named):
            self.named.add(path)
            self.log.terminal.warn(f"{path} cannot be read; another image stands in")
        share = counters["unreadable_now"] / (plan.steps_per_epoch * plan.batch_size)
        if share > self.max_unreadable:
            raise UserError(
                f"{share:.1%} of this epoch's images cannot be read ({counters['unreadable_now']:,} so far), more than "
                f"data.max_unreadable={self.max_unreadable:g}; look at the files named above"
            )

    # Between steps

    def _validation_is_due(self) -> bool:
        state = self.state
        return state.validated != state.step and self.plan.validates(state.step, self.eval_every)

    def _validate(self) -> bool:
        """Validate and note the result; False when asked to stop meanwhile, with nothing noted."""
        state = self.state
        if self.checkpoints:
            self.checkpoints.wait()  # validation forks data workers, better not in the middle of the writer's work
        self.log.terminal.progress(state.step, self.plan.steps, "validating")
        try:
            evaluation = self._evaluate(state.model)
            found = _numbers(evaluation, "val_")
            if state.ema:
                evaluation = self._evaluate(state.ema.model)
                found |= _numbers(evaluation, "ema_val_")
        except _Interrupted:
            return False
        finally:
            training_mode(state.model)
        state.validated = state.step
        if not state.best or evaluation.top1 > state.best["top1"]:
            state.best = {"top1": evaluation.top1, "epoch": self.plan.epochs_done(state.step), "step": state.step}
        self.log.validation(self.log.validation_row(state.step, found), state.is_best)
        if self.pictures and state.is_best:
            self.pictures.confusion(evaluation, state.step)
        return True

    def _evaluate(self, model: nn.Module) -> Evaluation:
        return evaluate(
            model,
            self._until_stopped(self.val_loader),
            num_classes=self.num_classes,
            precision=self.precision,
            processes=self.processes,
        )

    def _until_stopped(self, batches: Collection[Batch]) -> Iterator[Batch]:
        """`batches`, until a process is asked to stop. Some may have one batch less; all look at what all have."""
        common = min(self.processes.gather(len(batches)))
        feed = Feed(lambda first: islice(batches, first, None), self.log.terminal.warn, "validation batch")
        for number in range(len(batches)):
            batch = feed.next(number, 0)
            if number < common and any(self.processes.total(self.stop.requested)):
                raise _Interrupted
            yield batch

    def _go_back(self) -> None:
        """Once, to the last good checkpoint, for it may have been the machine; the second time, give up."""
        complaint = (
            f"the last {self.state.counters['in_a_row']} steps up to step {self.state.step:,} had a loss or gradient "
            "that is not finite"
        )
        if self.checkpoints:
            self.checkpoints.wait()
        good = self.go_back(not self.went_back)
        if good is None:
            raise UserError(f"{complaint}, and there is no checkpoint from before; lower optim.lr or use dtype=fp32")
        if self.went_back:
            raise UserError(f"{complaint}, again; the last good checkpoint is {good}; lower optim.lr or use dtype=fp32")
        self.went_back = True
        self.log.start(self.state.step)
        self.log.terminal.warn(f"{complaint}; going back to {good}, step {self.state.step:,}, once")
        self.feed.close()  # the next batch comes from the step that `state` is at now

    # Checkpoints

    def _save(self) -> None:
        if self.checkpoints:
            self.log.flush(self.state.counters)
            self.checkpoints.save(self._saved(), best=self.state.is_best)

    def _saved(self) -> dict:
        return self.state.save(self.plan.epochs_done(self.state.step), self.config)

    def _finish(self) -> None:
        """Until the last checkpoint is on the disk, for all processes."""
        self.processes.on_main(lambda: self.checkpoints.finish(self._saved()))

    def _stop(self) -> bool:
        self._save()
        self._finish()
        return False


def _numbers(evaluation: Evaluation, prefix: str) -> dict[str, float]:
    return {f"{prefix}{name}": getattr(evaluation, name) for name in ("loss", "top1", "top5")}


class _Interrupted(Exception):  # noqa: N818  no error
    """A validation was left because the run is asked to stop."""
