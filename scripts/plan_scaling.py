"""Estimate of the training speed on N GPUs from parameters, speed of one GPU, and bandwidth of the links.

    python scripts/plan_scaling.py --parameters 28.3 --images-per-second 900 --link 25

Model: ring all-reduce, in which each GPU sends and receives 2 (N - 1) / N times the bytes of the gradients at the speed
of the slowest link. Communication starts with the first complete bucket and overlaps with the backward pass (2/3 of a
step). Exposed time is the rest, and at least the last bucket. The speed of one process is in timing.jsonl of a run
(`images_per_second`).
"""

import argparse
from typing import NamedTuple

BUCKET = 25e6  # bytes of a bucket of DDP
BACKWARD = 2 / 3  # share of the backward pass in a step
LATENCY = 20e-6  # seconds for one hop
IMAGENET = 1_281_167  # training images


class Plan(NamedTuple):
    """Estimate for `gpus` GPUs: images per GPU and step, seconds, images per second, parallel efficiency."""

    gpus: int
    images: int
    compute: float
    communication: float
    exposed: float
    images_per_second: float
    efficiency: float


def plan(
    gpus: int, *, parameters: float, images_per_second: float, batch: int, link: float, node: int, node_link: float
) -> Plan:
    """Estimate the time of a step.

    Args:
        parameters: number of parameters; gradients are float32.
        images_per_second: speed of a single GPU.
        batch: images of an update.
        link, node_link: bytes per second of each GPU between machines, and within a machine.
        node: GPUs per machine.
    """
    size = 4 * parameters
    compute = batch / gpus / images_per_second
    speed = node_link if gpus <= node else link
    communication = 2 * (gpus - 1) / gpus * size / speed + 2 * (gpus - 1) * LATENCY if gpus > 1 else 0.0
    last = communication * min(1.0, BUCKET / size)
    exposed = max(communication - BACKWARD * compute, last)
    step = compute + exposed
    speeds = {"images_per_second": batch / step, "efficiency": compute / step}
    return Plan(gpus, batch // gpus, compute, communication, exposed, **speeds)


def table(arguments: argparse.Namespace) -> str:
    """The estimates as a Markdown table."""
    rows = [
        "| GPUs | images per GPU | compute | all-reduce | exposed | images/s | efficiency | 300 epochs |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for gpus in arguments.gpus:
        if arguments.batch % gpus:
            continue
        p = plan(
            gpus,
            parameters=arguments.parameters * 1e6,
            images_per_second=arguments.images_per_second,
            batch=arguments.batch,
            link=arguments.link * 1e9,
            node=arguments.node,
            node_link=arguments.node_link * 1e9,
        )
        hours = 300 * IMAGENET / p.images_per_second / 3600
        times = " | ".join(f"{1e3 * seconds:.1f} ms" for seconds in (p.compute, p.communication, p.exposed))
        rows.append(
            f"| {gpus} | {p.images} | {times} | {p.images_per_second:,.0f} | {p.efficiency:.0%} | {hours:.1f} h |"
        )
    return "\n".join(rows)


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parameters", type=float, default=28.3, help="millions (%(default)s: DAT-T)")
    parser.add_argument("--images-per-second", type=float, default=900, help="speed of one GPU (%(default)s)")
    parser.add_argument("--batch", type=int, default=4096, help="images of an update (%(default)s)")
    parser.add_argument("--link", type=float, default=25, help="GB/s of each GPU between machines (%(default)s)")
    parser.add_argument("--node-link", type=float, default=200, help="GB/s of each GPU within a machine (%(default)s)")
    parser.add_argument("--node", type=int, default=8, help="GPUs per machine (%(default)s)")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 256], help="numbers of GPUs (%(default)s)")
    return parser


if __name__ == "__main__":
    print(table(argument_parser().parse_args()))
