"""Names, titles and formats of the metrics of any task in metrics.jsonl, summary.json and result.json."""

from collections.abc import Iterable, Mapping, Sequence

PERCENT = {
    "top1": "top-1",
    "top5": "top-5",
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "map": "mAP",
    "f1": "F1",
    "macro_f1": "F1, mean over classes",
    "ece": "calibration error",
}
PERCENT_PREFIXES = ("box_", "mask_")  # average precision and recall of a detector: "box_ap50"
NOT_METRICS = ("epoch", "step")  # summary.json has best_epoch and best_step


def title(name: str) -> str:
    """Title of a metric; unknown metrics keep their name."""
    if name.startswith(PERCENT_PREFIXES):
        kind, _, rest = name.partition("_")
        return f"{kind} {rest[:2].upper()}{rest[2:]}"
    return PERCENT.get(name, name.replace("_", " "))


def unit(name: str) -> str:
    return " %" if name in PERCENT or name.startswith(PERCENT_PREFIXES) else ""


def number_format(name: str) -> str:
    return ".2f" if unit(name) else ".4g" if name.endswith("per_second") else ".4f"


def validation_metrics(rows: Iterable[Mapping]) -> list[str]:
    """Metrics in the validation rows of metrics.jsonl ("val_NAME"), in the order of their appearance."""
    return list(dict.fromkeys(key.removeprefix("val_") for row in rows for key in row if key.startswith("val_")))


def score_name(summary: Mapping, validations: Sequence[Mapping]) -> str | None:
    """Name of the score that decides which checkpoint is the best; None before the first validation.

    summary.json names it ("score"); in older runs, it has "best_NAME" only. Before the end of a run, the score is the
    first metric other than the loss.
    """
    if "score" in summary:
        return summary["score"]
    for key in summary:
        if key.startswith("best_") and key.removeprefix("best_") not in NOT_METRICS:
            return key.removeprefix("best_")
    return next((name for name in validation_metrics(validations) if not name.startswith("loss")), None)


def value(row: Mapping, name: str) -> float | None:
    """A metric in a validation row: of the averaged weights if there are any, else of the model."""
    return row.get(f"ema_val_{name}", row.get(f"val_{name}"))
