"""Predicts from a probe of a few images what the whole listing will take, with an interval. Pure.

Each stage could do its slots over its seconds per image. The slowest decides. On CPU the cores are a stage of their
own, since decoding, the forward pass and post-processing share them. The interval is what resampling the probed units
gives: it covers how much images differ, not what else happens on the machines.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

RESAMPLES, COVERED = 1000, 0.9  # a 90 % interval
SEED = 0


@dataclass(frozen=True)
class ProbedUnit:
    """One unit of the probe. ``rle_bytes`` are the bytes of its masks, ``read_bytes`` those read from storage."""

    images: int
    seconds: Mapping[str, float]
    rle_bytes: int
    read_bytes: int


@dataclass(frozen=True)
class Machines:
    """The whole run has these: replicas, tasks that fetch and decode at once, CPU cores, threads per replica."""

    device: str
    replicas: int
    preparing: float
    cores: float
    threads: int


@dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its interval."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> "Estimate":
        """Return the same in another unit, or of more images."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


def capacities(units: Sequence[ProbedUnit], machines: Machines) -> dict[str, float]:
    """Return images per second that each stage could do if it were alone. Stages that cost nothing are left out."""
    each = seconds_per_image(units)
    fetch, decode, forward, postprocess = (each.get(s, 0.0) for s in ("fetch", "decode", "forward", "postprocess"))
    seconds = {
        ("fetch" if fetch > decode else "decode"): (fetch + decode) / machines.preparing,
        "forward": forward / machines.replicas,
        "postprocess": postprocess / machines.replicas,
    }
    if machines.device == "cpu":
        seconds["cores"] = (decode + forward * machines.threads + postprocess) / machines.cores
    return {stage: 1.0 / value for stage, value in seconds.items() if value > 0}


def seconds_per_image(units: Sequence[ProbedUnit]) -> dict[str, float]:
    """Return mean seconds of each stage."""
    images = sum(unit.images for unit in units)
    stages = dict.fromkeys(stage for unit in units for stage in unit.seconds)
    return {stage: sum(unit.seconds.get(stage, 0.0) for unit in units) / images for stage in stages}


def images_per_second(units: Sequence[ProbedUnit], machines: Machines) -> tuple[Estimate, str]:
    """Return the rate of the whole run, and the stage that limits it."""
    stages = capacities(units, machines)
    limit = min(stages, key=lambda stage: stages[stage])
    return interval(units, lambda some: min(capacities(some, machines).values(), default=stages[limit])), limit


def per_image(units: Sequence[ProbedUnit], size: Callable[[ProbedUnit], float]) -> Estimate:
    """Return the mean of something that adds up, per image."""
    return interval(units, lambda some: sum(size(unit) for unit in some) / sum(unit.images for unit in some))


def interval(units: Sequence[ProbedUnit], statistic: Callable[[Sequence[ProbedUnit]], float]) -> Estimate:
    """A statistic of the units, with the percentiles of its values over resampled units (the plain bootstrap)."""
    draw = random.Random(SEED)
    values = sorted(statistic(draw.choices(units, k=len(units))) for _ in range(RESAMPLES))
    tail = int(RESAMPLES * (1 - COVERED) / 2)
    value = statistic(units)
    return Estimate(value, min(value, values[tail]), max(value, values[-1 - tail]))


def sample_evenly(total: int, count: int) -> list[int]:
    """Draw ``count`` different numbers below ``total``, one from each of as many equal parts, in random order.

    Where there are fewer, all of them.

    >>> sorted(sample_evenly(5, 8)), [number // 100 for number in sorted(sample_evenly(400, 4))]
    ([0, 1, 2, 3, 4], [0, 1, 2, 3])
    """
    draw, count = random.Random(SEED), min(total, count)
    chosen = [draw.randrange(total * part // count, total * (part + 1) // count) for part in range(count)]
    draw.shuffle(chosen)
    return chosen
