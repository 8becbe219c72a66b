"""Evaluation of a model on a data set, with progress on the terminal."""

import time
from collections.abc import Iterator, Sequence

from torch import nn

from dat_train.commands.build_data import evaluation_batches
from dat_train.data.batch import Batch
from dat_train.data.dataset import ImageDataset
from dat_train.evaluation.classification import Evaluation, evaluate
from dat_train.evaluation.multilabel import MultiLabelEvaluation, evaluate_multilabel
from dat_train.runtime.batch_feed import feed_once
from dat_train.runtime.precision import Precision
from dat_train.runtime.processes import Processes
from dat_train.runtime.terminal import Terminal, duration
from dat_train.settings import Settings

PROGRESS_SECONDS = 30.0  # between progress lines where the output is no terminal


def run_evaluation(
    settings: Settings,
    processes: Processes,
    terminal: Terminal,
    precision: Precision,
    model: nn.Module,
    val_set: ImageDataset,
) -> tuple[Evaluation | MultiLabelEvaluation, float]:
    """Evaluate `model` on `val_set` as settings.task says; return the result and the seconds it took."""
    loader = evaluation_batches(settings, val_set, processes)
    start = time.monotonic()
    batches = watched(loader, terminal, start, settings.timeout_minutes)
    if settings.task == "multilabel":
        evaluation = evaluate_multilabel(model, batches, precision=precision, processes=processes)
        return evaluation, time.monotonic() - start
    evaluation = evaluate(
        model,
        batches,
        num_classes=len(val_set.classes),
        precision=precision,
        processes=processes,
        subset=val_set.subset,
        valid_labels=val_set.right,
    )
    return evaluation, time.monotonic() - start


def watched(loader: Sequence[Batch], terminal: Terminal, start: float, timeout_minutes: float) -> Iterator[Batch]:
    """Yield the batches of `loader` and print the progress.

    Args:
        start: time.monotonic() at the start of the evaluation.
        timeout_minutes: longest wait for a batch.

    Raises:
        UserError: no batch arrives within the time-out.
    """
    next_line = start + PROGRESS_SECONDS
    for done, batch in enumerate(feed_once(loader, terminal.warn, timeout_minutes=timeout_minutes)):
        terminal.progress(done, len(loader), "evaluating")
        if not terminal.live and (now := time.monotonic()) > next_line and done:
            left = (now - start) / done * (len(loader) - done)
            terminal.say(f"batch {done:,}/{len(loader):,}   ETA {duration(left)}")
            next_line = now + PROGRESS_SECONDS
        yield batch
