"""Functions of conf/ that derive a default from other settings, and their calls in words for the help."""

from dat_train.training.schedule import linear_lr, warmup

LARGE_DATA = ("imagenet", "hf", "shards", "fake")  # data.kind of sets with the size of ImageNet


def by_data(large: int, small: int, kind: str) -> int:
    """Choose between a value for sets of the size of ImageNet and one for own images, of which there are thousands.

    Used in conf/ as ${by_data:1024,128,${data.kind}}.
    """
    return int(large) if kind in LARGE_DATA else int(small)


def at_most(limit: int, value: int) -> int:
    """Minimum of two numbers. Used in conf/ as ${at_most:128,${batch_size}}."""
    return min(int(limit), int(value))


FUNCTIONS = (linear_lr, by_data, at_most, warmup)
IN_WORDS = {  # their calls in conf/ as the help shows them
    r"\$\{linear_lr:(\S+?),\$\{batch_size\}\}": r"\1 x batch_size / 1024",
    r"\$\{by_data:(\d+),(\d+),\$\{data\.kind\}\}": r"\1; own images: \2",
    r"\$\{at_most:(.*),\$\{batch_size\}\}": r"\1; at most batch_size",
    r"\$\{warmup:(\S+?),(\d+),\$\{epochs\}\}": r"\1 of \2, the same fraction of shorter schedules",
}
