"""Results of a benchmark and the numbers derived from them."""

import statistics
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Result:
    """Measurement of one model or one implementation in one mode.

    Attributes:
        name: of the model or implementation; mode: "inference", "training", ...; compiled: by torch.compile.
        items: images per call.
        seconds: of each call, in order.
        memory: peak bytes of a call; None if not measured.
        parameters, macs: of the model; None for a single layer.
    """

    name: str
    mode: str
    compiled: bool
    items: int
    seconds: list[float]
    memory: int | None = None
    parameters: int | None = None
    macs: int | None = None

    @property
    def latency(self) -> float:
        """Seconds of a call, median."""
        return statistics.median(self.seconds)

    @property
    def throughput(self) -> float:
        """Images per second, at the median."""
        return self.items / self.latency

    @property
    def spread(self) -> float:
        """Interquartile range of the seconds divided by their median."""
        if len(self.seconds) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (third - first) / self.latency


def ratio(result: Result, baseline: Result) -> float:
    """Speed relative to the baseline: median of the ratios of the rounds."""
    pairs = zip(result.seconds, baseline.seconds, strict=True)
    return statistics.median(other / own for own, other in pairs) * result.items / baseline.items


def compared(results: list[Result], baseline: str | None) -> list[dict]:
    """The results as plain values, with `speed_ratio` and `memory_ratio` to the baseline in the same mode."""
    rows = []
    for result in results:
        row = asdict(result) | {name: getattr(result, name) for name in ("latency", "throughput", "spread")}
        for other in results:
            if other.name == baseline and (other.mode, other.compiled) == (result.mode, result.compiled):
                row["speed_ratio"] = ratio(result, other)
                if result.memory and other.memory:
                    row["memory_ratio"] = result.memory / other.memory
        rows.append(row)
    return rows
