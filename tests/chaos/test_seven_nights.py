"""Seven nights of the scheduled job, each run a process as cron starts it, while images arrive, change and vanish.

The config is ``jobs/nightly.yaml`` with places and sizes of a test.
"""

import json
import math
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import victims
import yaml
from alone import rows_alone
from conftest import LONG, PROJECT
from drivers import HELD, LEASE_SECONDS, Driver, Drivers, environment_of
from judge import judge
from lab import MODEL
from storages import Bucket, Disk, Storage, images, s3_server
from test_two_runs import wait_until
from unit_hook import Hook
from witness import Witness

FIRST = 36  # images on the first night
SECONDS_PER_IMAGE = 0.7  # of a run that something happens to
LONGEST_SECONDS = 280
POOL = sorted(images(64).items())


@dataclass
class Place:
    """A storage where images come and go, and one OUTPUT."""

    storage: Storage
    hook: Hook
    folder: Path
    stack: ExitStack
    arrived: int = 0

    @property
    def output(self) -> str:
        return self.storage.at("labels")

    def arrive(self, count: int) -> None:
        for name, data in POOL[self.arrived : self.arrived + count]:
            self.storage.put(name, data)
        self.arrived += count

    def change(self, *numbers: int) -> None:
        """Other pixels under the same names."""
        for number in numbers:
            self.storage.put(POOL[number][0], POOL[-1 - number][1])

    def vanish(self, *numbers: int) -> None:
        for number in numbers:
            self.storage.delete(POOL[number][0])

    def start(self, night: str) -> tuple[Driver, Drivers, Path]:
        """The night's command, with a local Ray of its own below the folder."""
        tree = yaml.safe_load((PROJECT / "jobs" / "nightly.yaml").read_text())
        tree["input"]["uri"], tree["output"]["uri"] = self.storage.source, self.output
        tree["model"] = {"uri": MODEL, "task": "panoptic"}
        tree["compute"] = {"device": "cpu", "actors": 1, "threads_per_actor": 1}
        tree["run"] |= {"images_per_unit": 4, "lease_seconds": LEASE_SECONDS}
        config = self.folder / "nightly.yaml"
        config.write_text(yaml.safe_dump(tree))
        ray = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="n-", ignore_cleanup_errors=True)))
        self.stack.callback(victims.kill_all, ray)
        variables = {**self.storage.variables, **self.hook.variables, "RAY_TMPDIR": str(ray)}
        drivers = self.stack.enter_context(Drivers(environment_of(variables), self.folder / f"{night}.log"))
        return drivers.start(["segment", "--config", str(config)]), drivers, ray

    def run(self, night: str) -> dict[str, Any]:
        """A night to which nothing happens; returns how many images there are, as the last event says."""
        driver, drivers, _ = self.start(night)
        assert driver.process.wait(LONGEST_SECONDS) == 0, drivers.log()
        events = [json.loads(line) for line in drivers.log().splitlines() if line.startswith("{")]
        assert events[-1]["event"] == ("nothing_new" if night == "quiet" else "done")
        return events[-1]["images"]


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        storage: Storage = (
            Disk(tmp_path, {})
            if request.param == "disk"
            else Bucket(stack.enter_context(s3_server("moto", tmp_path)), {})
        )
        yield Place(storage, Hook(tmp_path / "hook"), tmp_path, stack)


@LONG
def test_after_seven_nights_the_rows_are_those_of_one_run(place: Place):
    with Witness(place.storage, place.output) as witness:
        place.arrive(FIRST)
        assert place.run("first")["listed"] == FIRST

        place.arrive(12)
        place.hook.pace(SECONDS_PER_IMAGE)
        driver, drivers, ray = place.start("killed")
        before = witness.files
        wait_until(lambda: witness.files > before, driver, drivers)
        driver.signal(signal.SIGKILL)
        victims.kill_all(ray)
        assert driver.process.wait() == -signal.SIGKILL

        place.hook.pace(0)
        place.arrive(2)
        place.change(0, 5)
        place.vanish(FIRST + 3)  # was new on the night before
        place.run("goes on")

        assert place.run("quiet")["listed"] == FIRST + 12 + 2 - 1

        place.arrive(4)
        place.hook.pace(math.inf)
        pair = [place.start(f"overlaps {number}") for number in range(2)]
        wait_until(lambda: any(driver.is_over() for driver, _, _ in pair), *pair[0][:2])
        place.hook.pace(SECONDS_PER_IMAGE)
        codes = [driver.process.wait(LONGEST_SECONDS) for driver, _, _ in pair]
        words = [drivers.log() for _, drivers, _ in pair]
        assert sorted(codes) == [0, HELD], words
        assert "output.uri" in words[codes.index(HELD)]

        place.vanish(1, 2)
        place.change(7, 8, 9)
        place.hook.pace(math.inf)
        driver, drivers, _ = place.start("takes until the next night")
        wait_until(lambda: '"event":"state"' in drivers.log(), driver, drivers)
        place.arrive(5)
        place.change(8)
        second, its, _ = place.start("comes too soon")
        assert second.process.wait(LONGEST_SECONDS) == HELD, its.log()
        place.hook.pace(0)
        assert driver.process.wait(LONGEST_SECONDS) == 0, drivers.log()

        place.run("late")
        witness.poll()
    assert witness.violations == []
    expected = rows_alone(place.storage, MODEL)
    assert len(expected) == FIRST + 12 + 2 + 4 + 5 - 3
    assert judge(place.storage, place.output, expected).problems == ()
