"""Functions of conf/ that derive a default from other settings: learning rate, warm-up, batch size of evaluation."""

FULL_LR_BATCH = 1024  # batch size that the rate of linear_lr refers to
LARGE_DATA = ("imagenet", "hf", "shards", "fake")  # data.kind of sets with the size of ImageNet


def linear_lr(rate: float, batch_size: int) -> float:
    """Scale a learning rate per 1024 images to another batch size by the linear scaling rule (Goyal et al., 2017).

    Used in conf/ as ${linear_lr:1e-3,${batch_size}}.
    """
    return float(rate) * batch_size / FULL_LR_BATCH


def by_data(large: int, small: int, kind: str) -> int:
    """Choose between a value for sets of the size of ImageNet and one for own images, of which there are thousands.

    Used in conf/ as ${by_data:1024,128,${data.kind}}.
    """
    return int(large) if kind in LARGE_DATA else int(small)


def at_most(limit: int, value: int) -> int:
    """Minimum of two numbers. Used in conf/ as ${at_most:128,${batch_size}}."""
    return min(int(limit), int(value))


def warmup(length: float, full: int, epochs: int) -> float:
    """Epochs of warm-up: `length` in schedules of `full` epochs or more, and the same fraction of shorter ones.

    Used in conf/ as ${warmup:20,300,${epochs}}.
    """
    return length if epochs >= full else round(length * epochs / full, 2)


FUNCTIONS = (linear_lr, by_data, at_most, warmup)
IN_WORDS = {  # their calls in conf/ as the help shows them
    r"\$\{linear_lr:(\S+?),\$\{batch_size\}\}": r"\1 x batch_size / 1024",
    r"\$\{by_data:(\d+),(\d+),\$\{data\.kind\}\}": r"\1; own images: \2",
    r"\$\{at_most:(.*),\$\{batch_size\}\}": r"\1; at most batch_size",
    r"\$\{warmup:(\S+?),(\d+),\$\{epochs\}\}": r"\1 of \2, the same share of fewer",
}
