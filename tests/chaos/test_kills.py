"""What a kill costs: fetch tasks, replicas and a node die, and few units are fetched again."""

from pathlib import Path

from conftest import LONG, PROJECT

from benchmarks.scale import kills

IMAGES = 15_000
EVENTS = ("task", "replica", "task", "node", "task")


@LONG
def test_kills_have_four_units_each_fetched_again_at_most(tmp_path: Path):
    # blocks as large as those of 10^7 images; rows are compared with those of an undisturbed run
    got = kills.run(IMAGES, tmp_path, PROJECT, events=EVENTS, blocks=2, seconds=0.05)
    assert got["kills"] == {"task": 3, "replica": 1, "node": 1}
    assert got["units"] == -(-IMAGES // kills.PER_UNIT)
    assert got["again"] <= 4 * got["processes"], got
