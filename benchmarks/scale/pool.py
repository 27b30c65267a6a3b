"""Measures how busy a pool of actors is kept, by stubs that import no torch and take a second for 16 images.

    python -m benchmarks.scale.pool [--quick] [--actors 64] [--seconds 200] [--images-per-unit 64]

The job itself, around ``benchmarks.lib.stubs``, on a Ray that believes to have a CPU for each actor: they only
sleep. Eight
more CPUs prepare. Nobody works before all actors are there. A unit of 32 images takes an actor two seconds.
"""

import json
import sys
import tempfile
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.stubs import BATCH
from benchmarks.lib.timing import parser, publish, say, table
from benchmarks.scale.scale import run, steady

UNITS = (32, 64)  # images: the default, and what suits large pools
Batches = list[list[tuple[float, float]]]  # of each actor, (began, ended) in order
PREPARING = 8  # CPUs
NOTE = """*busy* is the time that actors slept over the time of the whole pool, from the moment when the last actor had
its first batch to the moment when the first one had its last; *gap* lies between two batches of one actor. CPU is
in milliseconds per 32 images in that time, of the driver and of all processes; *driver's core* is the share of
one core that the driver took. Private memory in MiB, the most at any time."""


def measure(actors: int, seconds: int, unit: int) -> dict[str, Any]:
    """One line of the table: a pool of so many actors with units of so many images, with work for so many seconds."""
    with tempfile.TemporaryDirectory(prefix="m2f-") as scratch:
        logs = Path(scratch) / "logs"
        logs.mkdir()
        stubs = {"seconds": 1.0, "folder": str(logs), "pool": actors}
        got = run(
            actors * (seconds * BATCH // unit) * unit,
            Path(scratch),
            cpus=actors + PREPARING,
            compute={"actors": actors},
            stubs=stubs,
            run={"images_per_unit": unit},
        )
        lines = [[json.loads(line) for line in file.read_text().splitlines()] for file in logs.iterdir()]
    assert len(lines) == actors, f"{len(lines)} actors"
    assert not any(first["torch"] for first, *_ in lines), "an actor loaded torch"
    batches = [batches for _, *batches in lines]
    share, gaps, window = busy_share(batches)
    windows = shares_by(10.0, batches)
    flat, watch = steady(got), got["watch"]
    return {
        "actors": actors,
        "images per unit": unit,
        "images": f"{sum(map(len, batches)) * BATCH:,}",
        "full pool, s": f"{window:.0f}",
        "busy": f"{share:.1%}",
        "by 10 s (lowest, median, highest)": ", ".join(f"{np.quantile(windows, at):.1%}" for at in (0, 0.5, 1)),
        "gap, ms (median, 99 %)": f"{1000 * np.median(gaps):.1f}, {1000 * np.quantile(gaps, 0.99):.0f}",
        "images/s": f"{flat['rate']:.0f}",
        "CPU, driver": f"{flat['driver_ms'] * 32 / unit:.1f}",
        "CPU, all": f"{flat['all_ms'] * 32 / unit:.1f}",
        "driver's core": f"{flat['driver_ms'] / 1000 * flat['rate'] / unit:.0%}",
        "driver, MiB": f"{watch.peak('driver'):.0f}",
        "actor, MiB": f"{watch.peak('actors'):.0f}",
    }


def busy_share(batches: Batches) -> tuple[float, list[float], float]:
    """Of each actor's (began, ended) in order: the busy share of the full pool, gaps, and how long it was full (s).

    >>> busy_share([[(0, 1), (1.5, 2.5)], [(0.5, 1.5), (1.5, 2.5)]])
    (0.875, [0.5, 0.0], 2.0)
    """
    first, last = full_pool(batches)
    gaps = [after[0] - before[1] for own in batches for before, after in pairwise(own)]
    return _share(batches, first, last), gaps, last - first


def shares_by(seconds: float, batches: Batches) -> list[float]:
    """The busy share of each stretch of so many seconds while the pool was full."""
    first, last = full_pool(batches)
    count = max(1, int((last - first) / seconds))
    return [_share(batches, first + seconds * at, first + seconds * (at + 1)) for at in range(count)]


def full_pool(batches: Batches) -> tuple[float, float]:
    """From the last actor's first batch to the first one's last."""
    return max(own[0][0] for own in batches), min(own[-1][1] for own in batches)


def _share(batches: Batches, first: float, last: float) -> float:
    slept = sum(max(0.0, min(ended, last) - max(began, first)) for own in batches for began, ended in own)
    return slept / (len(batches) * (last - first))


def main() -> int:
    """Measure, print and write the table."""
    options = parser(__doc__)
    options.add_argument("--actors", type=int, nargs="+", help="the pools' sizes")
    options.add_argument("--images-per-unit", type=int, nargs="+", default=UNITS)
    options.add_argument("--seconds", type=int, default=200, help="of work for each actor")
    chosen = options.parse_args()
    lines = []
    for actors, unit in product(chosen.actors or ([4] if chosen.quick else [16, 64]), chosen.images_per_unit):
        lines.append(measure(actors, 10 if chosen.quick else chosen.seconds, unit))
        say(", ".join(f"{name} {value}" for name, value in lines[-1].items()))
    publish("pool", "A pool kept busy", [table(lines), NOTE], threads=1, quick=chosen.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
