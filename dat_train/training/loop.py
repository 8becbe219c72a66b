"""Training loop: gradients of micro-batches, clipping, update, validation, DDP."""

import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dat_train.data.randomness import keyed_seed
from dat_train.errors import UserError
from dat_train.models.batch_norm import apply_running_averages, defer_running_averages
from dat_train.runtime.batch_feed import TIMEOUT_MINUTES, BatchFeed, Stopped, feed_once
from dat_train.runtime.processes import ProcessLost
from dat_train.training.checkpoint_writer import CheckpointWriter
from dat_train.training.freezing import training_mode
from dat_train.training.optimizer import set_learning_rate, update
from dat_train.training.plan import RunPlan
from dat_train.training.resume import newest_good_checkpoint, restore_from
from dat_train.training.run_context import RunContext
from dat_train.training.run_log import RunLog
from dat_train.training.run_pictures import RunPictures
from dat_train.training.state import TrainState
from dat_train.training.task import Evaluation, MicroBatch, MicroBatchKey, Task
from dat_train.viewer.offsets import OffsetMonitor

MAX_REPORTED = 20  # maximum number of unreadable files per step or validation that are reported individually


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """Settings of the loop.

    Args:
        seed: all random draws depend on it.
        clip_grad: maximum norm of the gradient; 0 disables clipping.
        eval_every: epochs between validations.
        log_every: steps between progress lines.
        max_unreadable: fraction of an epoch's samples that may be unreadable before the run ends.
        nonfinite_limit: number of consecutive steps with a non-finite loss or gradient (not caused by loss scaling)
            after which the run returns to the last good checkpoint; the second time, it ends.
        timeout_minutes: maximum wait for a batch.
        compile: compile the model.
    """

    seed: int = 0
    clip_grad: float = 5.0
    eval_every: int = 1
    log_every: int = 50
    max_unreadable: float = 0.01
    nonfinite_limit: int = 20
    timeout_minutes: float = TIMEOUT_MINUTES
    compile: bool = False


@dataclass(kw_only=True)
class Training:
    """Training run; `run()` is the loop.

    The result is a function of state, task, data, plan and options, up to the order of floating-point sums: every
    random draw is keyed by (seed, step, micro-batch), and the learning rate depends on the step only. With adam and
    adamw, the host waits for the device only once in `log_every` steps, before a checkpoint and before a validation.

    Args:
        state: initial state; holds the result.
        task: loss and evaluation.
        make_loader: maps a step to an iterable of the micro-batches of this process from that step on.
        val_loader: part of the validation set for this process.
        checkpoints: in the main process; None in the others.
        offsets: measurement of the offsets, in the main process; None to disable.
        pictures: pictures of the first micro-batch and of the best evaluations, in the main process; None to disable.
    """

    context: RunContext
    state: TrainState
    task: Task
    plan: RunPlan
    make_loader: Callable[[int], Iterable[MicroBatch]]
    val_loader: Collection[MicroBatch]
    options: LoopOptions
    log: RunLog
    checkpoints: CheckpointWriter | None
    offsets: OffsetMonitor | None = None
    pictures: RunPictures | None = None

    def __post_init__(self) -> None:
        self.processes, self.terminal = self.context.processes, self.context.terminal
        # conditions that end the wait for a batch
        self.waiting = {"stop": self.context.stop, "timeout_minutes": self.options.timeout_minutes}
        self.feed = BatchFeed(lambda step: self.make_loader(step), self.terminal.warn, **self.waiting)
        self.forward: nn.Module = self.state.model  # as the loop calls it, see `_wrap`
        self.reported: set[str] = set()  # unreadable files that were reported
        self.left_out: list[str] = []  # unreadable files of a validation in this process
        self.restored = False  # True after a return to an earlier checkpoint because of non-finite steps

    def run(self) -> bool:
        """Train to the end of the plan. Returns False if the run was asked to stop earlier.

        Raises:
            UserError: too many skipped steps or unreadable images, or the last state could not be written.
        """
        self.context.stop.at_once = False  # from now on there is something to save
        with self.processes.collective("first all_reduce of gradients"):
            self.forward = self._wrap()
        self.log.start(self.state.step)
        with closing(self.feed):
            finished = False
            try:
                self._run()
                finished = True
            except _StopAgreed:
                self._save()
            except Stopped:  # before the update of a step, or in a validation: the state is that of the last step
                if self.processes.world_size > 1:  # the others wait inside this step and cannot agree to stop
                    raise
                self._save()
            # all processes wait until the last checkpoint is on the disk
            self.processes.on_main(lambda: self.checkpoints.finish(self._saved()))
            return finished

    def _run(self) -> None:
        state, plan, counters = self.state, self.plan, self.state.counters
        if self._validation_is_due():  # the previous process ended between the last step and its validation
            self._validate()
            self._save()

        while state.step < plan.steps:
            # One step: the gradient of `batch_size` samples over all processes, one update.
            with self._saved_on_stop():
                loss, parts, unreadable = self._gradients()
            apply_running_averages(state.model, self.processes.sum_)
            numbers = self._update(loss)
            state.step += 1

            # The hosts exchange their counts while the devices compute.
            stopping, count = self.processes.total(self.context.stop.requested, len(unreadable))
            self._count_unreadable(count, unreadable)
            further = {f"loss_{name}": value for name, value in parts.items()}
            if self.offsets and self.offsets.is_due(state.step):
                further |= self.offsets.measure(state.model)
            self.log.step(state.step, plan.learning_rate(state.step - 1), counters["unreadable"], numbers, further)

            # At intervals: read the numbers, validate, save.
            epoch_ends = plan.ends_epoch(state.step) or state.step == plan.steps
            validates = self._validation_is_due()
            if epoch_ends or validates or state.step % self.options.log_every == 0:
                self.log.flush(counters)
                if counters["consecutive_failures"] >= self.options.nonfinite_limit:
                    self._restore_good_checkpoint()
                    counters = state.counters
                    continue
            if stopping:
                raise _StopAgreed
            if validates:
                self._validate()
            if epoch_ends or validates or (self.checkpoints and self.checkpoints.due()):
                self._save()

    # Setup

    def _wrap(self) -> nn.Module:
        """Return the model as the loop calls it. `state.model` stays unwrapped and shares the weights."""
        model = self.state.model
        training_mode(model)
        defer_running_averages(model)
        forward = torch.compile(model) if self.options.compile else model
        if self.processes.world_size == 1:
            return forward
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # newer torch renames broadcast_buffers
            forward = DistributedDataParallel(
                forward,
                broadcast_buffers=False,  # buffers are constants, or equal averages in all processes
                gradient_as_bucket_view=True,
                static_graph=True,  # every weight gets a gradient in every step, also if drop path drops a branch
            )
        self._warm_up_ddp(forward)
        defer_running_averages(model)
        return forward

    def _warm_up_ddp(self, forward: nn.Module) -> None:
        """Run two forward and backward passes without an update.

        DDP counts gradients in its first pass, records their order in the second, and then rebuilds its buckets. The
        order of sums over processes depends on the buckets, so without these passes a resumed run would sum in another
        order than an uninterrupted one. DDP also requires that the first pass is synchronized.
        """
        example = self.task.example(self.plan.micro_batch_size)
        for _ in range(2):
            self.task.loss(forward, example, MicroBatchKey(self.options.seed, 0, 0)).total.backward()
            forward.zero_grad(set_to_none=False)

    # A step

    def _gradients(self) -> tuple[Tensor, dict[str, Tensor], list[str]]:
        """Compute the gradient of the step's loss: its mean over all micro-batches of all processes.

        Returns:
            Loss () and its parts () on the device, and the unreadable files of this process.
        """
        state, plan, seed = self.state, self.plan, self.options.seed
        micros = plan.micro_batches_of(self.processes.rank)
        losses: list[Tensor] = []  # (1 + parts,) of each micro-batch
        names, unreadable = [], []
        self.forward.zero_grad(set_to_none=False)  # keeps DDP's buckets in place
        for turn, m in enumerate(micros):
            batch, key = self.feed.next(state.step, turn), MicroBatchKey(seed, state.step, m)
            unreadable += batch.unreadable
            if self.pictures and state.step == turn == 0:
                self.pictures.batch(self.task, batch, key)
            torch.manual_seed(keyed_seed("dropout", *key))
            # DDP sums gradients over the processes once per step, in the backward pass of the last micro-batch
            with nullcontext() if m == micros[-1] or self.processes.world_size == 1 else self.forward.no_sync():
                loss, parts = self.task.loss(self.forward, batch, key)
                # DDP averages over processes, so each process averages over its own micro-batches
                with self.processes.collective("all_reduce of gradients"):
                    state.scaler.scale(loss / len(micros)).backward()
            names = list(parts)
            losses.append(torch.stack([loss.detach(), *(part.detach().to(loss.dtype) for part in parts.values())]))
        mean = self.processes.sum_(sum(losses[1:], losses[0]) / plan.micro_batches)
        return mean[0], dict(zip(names, mean[1:], strict=True)), unreadable

    def _update(self, loss: Tensor) -> Tensor:
        """Clip the gradient and update the weights, unless loss or gradient is not finite; then update their average.

        The decision is made on the device, from numbers that are equal in all processes. With adam and adamw, the
        optimizer's kernel applies it, so the host does not wait. A skipped step does not change the optimizer's step
        count.

        With fp16, gradients of a finite loss overflow if the loss scale is too large; the scaler then halves it. This
        is not a failure as long as the scale is above 1.

        Returns:
            (4,) on the device: loss, gradient norm before clipping, 1 if the step was skipped, 1 if it failed.
        """
        state = self.state
        set_learning_rate(state.optimizer, self.plan.learning_rate(state.step))
        state.scaler.unscale_(state.optimizer)
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), self.options.clip_grad or math.inf)
        skip = (~torch.isfinite(loss + norm)).float()
        scaled = state.scaler.scale(torch.ones_like(loss)) > 1  # before the scaler is updated with this step
        failed = skip * ~(scaled & torch.isfinite(loss))
        update(state.optimizer, skip)
        state.scaler.update()
        if state.ema:
            state.ema.update(state.model, state.step)
        return torch.stack([loss, *(number.to(loss.dtype) for number in (norm, skip, failed))])

    def _count_unreadable(self, count: int, own: list[str]) -> None:
        """Count unreadable images of all processes, report each file once, and stop if there are too many.

        Args:
            count: number over all processes in this step.
            own: paths in this process.
        """
        counters, plan = self.state.counters, self.plan
        if (self.state.step - 1) % plan.steps_per_epoch == 0:
            counters["unreadable_in_epoch"] = 0
        if not count:
            return
        counters["unreadable"] += count
        counters["unreadable_in_epoch"] += count
        self._report_unreadable(own, "replaced by another image")
        share = counters["unreadable_in_epoch"] / (plan.steps_per_epoch * plan.batch_size)
        if share > self.options.max_unreadable:
            raise UserError(
                f"{share:.1%} of this epoch's images cannot be read ({counters['unreadable_in_epoch']:,} so far), more "
                f"than data.max_unreadable={self.options.max_unreadable:g}; check the files reported above, or raise it"
            )

    def _report_unreadable(self, own: list[str], consequence: str) -> None:
        """Warn about the unreadable files of all processes, once per file in a run.

        Args:
            own: paths in this process.
            consequence: treatment of the images, for the message.
        """
        new = sorted({path for paths in self.processes.gather(own) for path in paths} - self.reported)
        self.reported.update(new)
        for path in new[:MAX_REPORTED]:
            self.terminal.warn(f"{path} cannot be read; it is {consequence}")
        if more := len(new[MAX_REPORTED:]):
            self.terminal.warn(f"{more:,} more images cannot be read; they are {consequence}; dat-check names all")

    # Between steps

    def _validation_is_due(self) -> bool:
        state = self.state
        return state.validated != state.step and self.plan.is_validation_step(state.step, self.options.eval_every)

    def _validate(self) -> None:
        """Validate and record the result.

        Raises:
            _StopAgreed: the run is asked to stop during the validation; nothing is recorded.
        """
        state, score = self.state, self.task.score
        if self.checkpoints:
            self.checkpoints.wait()  # validation forks data workers, which is safer if the writer thread is idle
        self.terminal.progress(state.step, self.plan.steps, "validating")
        self.left_out = []
        averaged = None
        try:
            with self._saved_on_stop():
                evaluation = self._evaluate(state.model)
                if state.ema:
                    averaged = self._evaluate(state.ema.model)
        finally:
            training_mode(state.model)
        self._report_unreadable(self.left_out, "left out of the validation")
        decisive = averaged or evaluation
        state.record_validation(score.name, decisive.numbers[score.name], self.plan.epochs_done(state.step))
        self.log.validation(state.step, evaluation, averaged=averaged, score=score, is_best=state.is_best)
        if self.pictures and state.is_best:
            self.pictures.evaluation(decisive, state.step)

    def _evaluate(self, model: nn.Module) -> Evaluation:
        return self.task.evaluate(model, self._until_stopped(self.val_loader), self.processes)

    def _until_stopped(self, batches: Collection[MicroBatch]) -> Iterator[MicroBatch]:
        """Yield `batches` until a process is asked to stop.

        The number of batches may differ by one between processes, so they exchange the request only for batches that
        all of them have.
        """
        common = min(self.processes.gather(len(batches)))
        feed = feed_once(batches, self.terminal.warn, unit="validation batch", **self.waiting)
        for number, batch in enumerate(feed):
            if number < common and any(self.processes.total(self.context.stop.requested)):
                raise _StopAgreed
            self.left_out += batch.unreadable
            yield batch

    def _restore_good_checkpoint(self) -> None:
        """Restore the last good checkpoint, because a hardware fault is possible; the second time, end the run."""
        message = (
            f"the last {self.state.counters['consecutive_failures']} steps up to step {self.state.step:,} had a loss "
            "or gradient that is not finite"
        )
        if self.checkpoints:
            self.checkpoints.wait()
        good = newest_good_checkpoint(self.context)
        if good is None:
            raise UserError(f"{message}, and there is no checkpoint from before; lower optim.lr or use dtype=fp32")
        if self.restored:
            raise UserError(f"{message}, again; the last good checkpoint is {good}; lower optim.lr or use dtype=fp32")
        restore_from(good, self.state, self.context)
        self.restored = True
        self.log.start(self.state.step)
        self.terminal.warn(f"{message}; going back to {good}, step {self.state.step:,}, once")
        self.feed.close()  # the next batch is then that of `state.step`

    # Checkpoints

    def _save(self) -> None:
        if self.checkpoints:
            self.log.flush(self.state.counters)
            self.checkpoints.save(self._saved(), best=self.state.is_best)

    @contextmanager
    def _saved_on_stop(self) -> Iterator[None]:
        """Save the state of the last step if a stop request ends the wait for a batch in one of several processes.

        That process stops alone, and the collective operation of the others fails: they cannot agree on a save. The
        weights are still those of the last step. On CUDA, nothing is saved after a failed collective operation, because
        copies from the device would wait for it.
        """
        try:
            yield
        except (Stopped, ProcessLost) as error:
            reachable = isinstance(error, Stopped) or self.processes.device.type == "cpu"
            if self.processes.world_size > 1 and self.checkpoints and self.context.stop.requested and reachable:
                self._save()
                self.checkpoints.finish(self._saved())
            raise

    def _saved(self) -> dict:
        return self.state.state_dict(self.plan.epochs_done(self.state.step))


class _StopAgreed(Exception):  # noqa: N818  not an error
    """The processes have agreed to stop, after a request to at least one of them."""
