"""How fast a model will train on 8, 64, 256 GPUs: arithmetic from parameters, one GPU's speed, and the links' speed.

    python scripts/plan_scaling.py --parameters 28.3 --images-per-second 900 --link 25

Gradients are summed in a ring: each GPU sends and receives 2 (N - 1) / N times their bytes, at the speed of the slowest
link. That begins with the first finished bucket, so it hides behind the rest of the backward pass, 2/3 of a step:
only what does not fit there, and the last bucket, is waited for. One process' images a second are in timing.jsonl of a
run (`images_per_second`).
"""

import argparse
from typing import NamedTuple

BUCKET = 25e6  # bytes that DDP sums at a time
BACKWARD = 2 / 3  # of a step
LATENCY = 20e-6  # seconds of one hop
IMAGENET = 1_281_167  # training images


class Plan(NamedTuple):
    """What to expect of `gpus` GPUs: images each computes in a step, seconds, images a second, share of the ideal."""

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
    """The arithmetic.

    Args:
        parameters: of the model; gradients are float32.
        images_per_second: of one GPU alone.
        link, node_link: bytes a second of each GPU between machines, and inside one.
        node: GPUs of a machine.
    """
    size = 4 * parameters
    compute = batch / gpus / images_per_second
    speed = node_link if gpus <= node else link
    communication = 2 * (gpus - 1) / gpus * size / speed + 2 * (gpus - 1) * LATENCY if gpus > 1 else 0.0
    last = communication * min(1.0, BUCKET / size)
    exposed = max(communication - BACKWARD * compute, last)
    step = compute + exposed
    return Plan(gpus, batch // gpus, compute, communication, exposed, batch / step, compute / step)


def table(arguments: argparse.Namespace) -> str:
    """In Markdown."""
    rows = [
        "| GPUs | images a GPU | compute | sum of gradients | waited for | images/s | efficiency | 300 epochs |",
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


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    made.add_argument("--parameters", type=float, default=28.3, help="millions (%(default)s: DAT-T)")
    made.add_argument("--images-per-second", type=float, default=900, help="of one GPU alone (%(default)s)")
    made.add_argument("--batch", type=int, default=4096, help="images of an update (%(default)s)")
    made.add_argument("--link", type=float, default=25, help="GB/s of each GPU between machines (%(default)s)")
    made.add_argument("--node-link", type=float, default=200, help="GB/s of each GPU inside a machine (%(default)s)")
    made.add_argument("--node", type=int, default=8, help="GPUs of a machine (%(default)s)")
    made.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 256], help="how many")
    return made


if __name__ == "__main__":
    print(table(parser().parse_args()))
