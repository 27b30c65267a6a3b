"""A run on a cluster that scales from nothing: replicas come in one step, and ``busy`` says what processes burned."""

import pytest
from conftest import LONG

from benchmarks.scale.growing import measure


@LONG
def test_a_cluster_that_grows():
    got = measure(3, 40, cpu_nodes=2)
    assert got["replicas"] == 3, "each loads its model once"
    assert got["GPU nodes asked for"] == [3], "in one step"
    # nodes that come are seen within five seconds
    assert got["busy of decode"] == pytest.approx(got["burned"], rel=0.25)
    assert got["busy of forward"] == pytest.approx(got["slept"], rel=0.25)
    assert got["nodes for the proof"] == 0
