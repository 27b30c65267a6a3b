"""From probed units to a prediction: capacities by hand, intervals against what is known of a mean."""

import random
import statistics

import pytest

from m2f_batch.flow.prediction import (
    Machines,
    ProbedUnit,
    capacities,
    images_per_second,
    interval,
    per_image,
    sample_evenly,
    seconds_per_image,
)

GPU = Machines("cuda", replicas=4, preparing=16, cores=20, threads=2)
CPU = Machines("cpu", replicas=2, preparing=4, cores=8, threads=3)


def probed(images: int = 1, rle_bytes: int = 0, read_bytes: int = 0, **seconds: float) -> ProbedUnit:
    return ProbedUnit(images, seconds, rle_bytes, read_bytes)


def test_seconds_per_image_weigh_units_by_their_images():
    units = [probed(3, forward=3.0, fetch=0.3), probed(1, forward=5.0)]
    assert seconds_per_image(units) == pytest.approx({"forward": 2.0, "fetch": 0.075})


def test_capacities_are_places_over_seconds():
    each = {"fetch": 0.1, "decode": 0.3, "forward": 0.05, "postprocess": 0.01}
    assert capacities([probed(**each)], GPU) == pytest.approx({"decode": 40, "forward": 80, "postprocess": 400})
    # 0.3 + 3 x 0.05 + 0.01 core seconds per image, of 8 cores
    assert capacities([probed(**each)], CPU) == pytest.approx(
        {"decode": 10, "forward": 40, "postprocess": 200, "cores": 8 / 0.46}
    )
    assert capacities([probed(fetch=0.4, forward=0.1)], GPU) == pytest.approx({"fetch": 40, "forward": 40})


@pytest.mark.parametrize(
    ("seconds", "limit", "rate"),
    [
        ({"decode": 0.1, "forward": 0.2}, "forward", 20.0),
        ({"decode": 1.6, "forward": 0.2}, "decode", 10.0),
        ({"fetch": 1.7, "decode": 1.5, "forward": 0.2}, "fetch", 5.0),
        ({"decode": 0.1, "forward": 0.2, "postprocess": 0.8}, "postprocess", 5.0),
    ],
)
def test_the_slowest_stage_decides(seconds, limit, rate):
    estimate, stage = images_per_second([probed(**seconds)] * 5, GPU)
    assert (stage, estimate.value) == (limit, pytest.approx(rate))
    assert estimate.low == estimate.high == pytest.approx(rate), "equal units leave nothing to doubt"


def test_the_interval_covers_the_mean_of_what_was_sampled():
    """Of 90 % intervals from 24 values each, some 90 % must hold the mean (here of 200: 3 deviations are 6 %)."""
    draw, covered = random.Random(1), 0
    for _ in range(200):
        units = [probed(forward=draw.lognormvariate(0.0, 0.5)) for _ in range(24)]
        estimate = per_image(units, lambda unit: unit.seconds["forward"])
        covered += estimate.low <= 1.1331 <= estimate.high  # exp(0.125)
    assert 0.8 <= covered / 200 <= 0.96


def test_an_interval_holds_its_value_and_is_the_same_every_time():
    units = [probed(rle_bytes=10 * number**2) for number in range(1, 9)]
    first, again = (per_image(units, lambda unit: unit.rle_bytes) for _ in range(2))
    assert first == again
    assert first.value == statistics.mean(unit.rle_bytes for unit in units)
    assert 10 <= first.low < first.value < first.high <= 640
    assert first.times(2).high == 2 * first.high
    alone = interval(units[:1], lambda some: float(some[0].rle_bytes))
    assert alone.low == alone.value == alone.high


@pytest.mark.parametrize(("total", "count"), [(1, 24), (24, 24), (25, 24), (1000, 24), (10**8, 256)])
def test_samples_come_one_from_each_part(total, count):
    chosen = sample_evenly(total, count)
    assert len(set(chosen)) == len(chosen) == min(total, count)
    assert chosen == sample_evenly(total, count)
    for part, number in enumerate(sorted(chosen)):
        assert total * part // len(chosen) <= number < total * (part + 1) // len(chosen)
