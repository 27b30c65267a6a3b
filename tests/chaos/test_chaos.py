"""A short schedule of kills and faults; ``make chaos`` runs many."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from alone import rows_alone
from conftest import LONG
from lab import MODEL, Lab, lab
from schedules import KINDS, draw_schedule

SHORT = ("head", "driver-rival", "driver-stop")  # left out here: they wait for half a minute
IMAGES = 32  # one of them is broken


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(IMAGES, "moto", tmp_path_factory.mktemp("logs")) as running:
        yield running


def test_schedules_follow_from_their_seed():
    drawn = [draw_schedule(seed) for seed in range(40)]
    assert drawn == [draw_schedule(seed) for seed in range(40)]
    assert all(3 <= len(schedule.events) <= 6 for schedule in drawn)
    assert sum(schedule.place == "s3" and schedule.fault_rate > 0 for schedule in drawn) == 20
    with_kill = [schedule for schedule in drawn if any(event.kind == "driver-kill" for event in schedule.events)]
    assert len(with_kill) >= 20
    assert {event.kind for schedule in drawn for event in schedule.events} == set(KINDS)


# the first two start drivers again and again
@pytest.mark.parametrize(
    ("seed", "storage", "kinds"),
    [
        pytest.param(2, "disk", {"task", "driver-kill"}, marks=LONG),
        pytest.param(4, "s3", {"driver-kill", "driver-terminate"}, marks=LONG),
        (23418, "s3", {"actor", "driver-kill", "node"}),
    ],
)
def test_a_disturbed_run_ends_as_one_never_disturbed(place: Lab, seed: int, storage: str, kinds: set[str]):
    schedule = draw_schedule(seed, storage, most_events=3, without=SHORT)
    assert {event.kind for event in schedule.events} == kinds
    place.expect(storage, rows_alone(place.storages[storage], MODEL))
    result = place.carry_out(schedule)
    log = Path(place.folder / f"run-{seed}.log").read_text()[-5000:]
    assert result["problems"] == [], f"{result}\n{log}"
    assert result["counts"], f"too few events: {result['done']}"
    if "node" in kinds:  # it was killed, with its actors and tasks, while there was work left for others
        done = {event["kind"]: event for event in result["done"] if event["done"]}
        assert done.keys() == kinds, result["done"]
        assert done["node"]["labelled"] < IMAGES // int(schedule.settings["run.images_per_unit"]), result["done"]
    assert (result["rows"], result["lost"], result["doubled"], result["changed"]) == (IMAGES, 0, 0, 0)
