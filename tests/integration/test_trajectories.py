"""The picture of free trajectories in small: one ruler for all, and what is said of runs that part."""

import numpy as np
import pytest

from benchmarks.training.trajectories import FIRST, ONE, PAIRS, Way, figures, picture, smoothed, trajectory


def test_a_plain_loop_is_measured_by_the_same_ruler():
    ours, plain = trajectory(ONE, 2), trajectory(Way(1, True, "float32"), 2)
    assert plain[0] == pytest.approx(ours[0], rel=1e-6)
    assert plain[1] == pytest.approx(ours[1], rel=0.05), "its points are others, its step is much the same"
    assert plain[1] != ours[1]


def test_what_is_said_of_runs_that_part():
    losses = {way: np.linspace(20, 10, 2 * FIRST) for pair in PAIRS.values() for way in pair}
    first, second, _ = ((way, against) for way, against in PAIRS.values())
    losses[first[0]] = losses[first[1]] * np.repeat([1 + 1e-6, 1 - 1e-2], FIRST)
    alone, line, *_ = figures(losses)
    assert "" in alone.values()
    assert [value for key, value in line.items() if key.startswith(("step", "largest"))] == ["1.0e-06"] * 2 + [
        "1.0e-02"
    ]
    assert second[1] == first[1] == ONE
    assert picture(losses).startswith(b"\x89PNG")
    assert smoothed(np.array([1.0, 1.0, 4.0])).tolist() == pytest.approx([1.0, 2.0, 2.5])
