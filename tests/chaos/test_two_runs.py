"""Two runs on one OUTPUT: started at the same second, and with the first one asleep past its lease. One works.

Each run has a local Ray of its own. CHAOS=all runs every case on both storages; else one case on each.
"""

import math
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import victims
from alone import rows_alone
from drivers import HELD, LEASE_SECONDS, Driver, Drivers, environment_of, segment_arguments
from judge import judge
from lab import MODEL
from storages import Bucket, Disk, Storage, images, s3_server
from unit_hook import Hook
from witness import Witness

from m2f_batch.records import Row

IMAGES = 28  # one of them is broken
SECONDS_PER_IMAGE = 0.3
SETTINGS = {"output.images_per_file": "12", "run.images_per_unit": "4", "compute.actors": "1"}
LONGEST_SECONDS = 280


@dataclass
class Ground:
    """A storage, the rows of its images, and what all commands on it share."""

    storage: Storage
    hook: Hook
    folder: Path
    stack: ExitStack

    def drivers(self, name: str) -> tuple[Drivers, Path]:
        """Commands with a local Ray of their own, and the directory by which its processes are known."""
        ray = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="two-", ignore_cleanup_errors=True)))
        self.stack.callback(victims.kill_all, ray)
        variables = {**self.storage.variables, **self.hook.variables, "RAY_TMPDIR": str(ray)}
        return self.stack.enter_context(Drivers(environment_of(variables), self.folder / f"{name}.log")), ray

    def arguments(self, name: str) -> list[str]:
        return segment_arguments(self.storage.source, self.storage.at(name), MODEL, SETTINGS)


@pytest.fixture(scope="module", params=["disk", "s3"])
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder, files = tmp_path_factory.mktemp("ground"), images(IMAGES)
    with ExitStack() as stack:
        if request.param == "disk":
            storage: Storage = Disk(folder, files)
        else:
            storage = Bucket(stack.enter_context(s3_server("moto", folder)), files)
        yield Ground(storage, Hook(folder / "hook"), folder, stack)


@pytest.fixture(scope="module")
def expected(ground: Ground) -> list[Row]:
    return rows_alone(ground.storage, MODEL)


def only_on(ground: Ground, *kinds: type) -> None:
    if not isinstance(ground.storage, kinds) and os.environ.get("CHAOS") != "all":
        pytest.skip("CHAOS=all runs it on this storage too")


def test_started_at_the_same_second(ground: Ground, expected: list[Row]):
    only_on(ground, Disk)
    ground.hook.begin(math.inf)  # the one that works does so until the other is refused
    pair = [ground.drivers(f"same-{number}")[0] for number in range(2)]
    with Witness(ground.storage, ground.storage.at("same")) as witness:
        for drivers in pair:
            drivers.start(ground.arguments("same"))
        wait_until(lambda: any(drivers.current.is_over() for drivers in pair), pair[0].current, pair[0])
        ground.hook.pace(0)
        codes = [drivers.current.process.wait(LONGEST_SECONDS) for drivers in pair]
        witness.poll()
    words = [drivers.log() for drivers in pair]
    assert sorted(codes) == [0, HELD], words
    refused = words[codes.index(HELD)]
    assert "output.uri" in refused
    assert "Traceback" not in refused
    assert witness.violations == []
    assert judge(ground.storage, ground.storage.at("same"), expected).problems == ()


@pytest.mark.parametrize("whole", [False, True], ids=["the driver", "the driver and its workers"])
def test_the_first_asleep_past_its_lease(ground: Ground, expected: list[Row], whole: bool):
    only_on(ground, *([Bucket] if whole else []))
    name = f"asleep-{whole}"
    ground.hook.begin(SECONDS_PER_IMAGE)
    (first, ray), (second, _) = ground.drivers(f"{name}-1"), ground.drivers(f"{name}-2")
    with Witness(ground.storage, ground.storage.at(name)) as witness:
        sleeper = first.start(ground.arguments(name))
        wait_until(lambda: witness.files > 0, sleeper, first)
        ground.hook.pace(math.inf)  # neither is done before the first is awake again
        workers = victims.by_role(ray, "actor", "task", "idle", "helper") if whole else []
        sleeper.signal(signal.SIGSTOP)
        for worker in workers:
            worker.signal(signal.SIGSTOP)
        time.sleep(1.5 * LEASE_SECONDS)
        before = witness.files
        ground.hook.pace(SECONDS_PER_IMAGE)
        rival = second.start(ground.arguments(name))
        wait_until(lambda: witness.files > before, rival, second)  # it has begun to work, or was refused
        ground.hook.pace(math.inf)
        for worker in workers:
            worker.signal(signal.SIGCONT)
        sleeper.signal(signal.SIGCONT)
        ground.hook.pace(0)
        codes = [driver.process.wait(LONGEST_SECONDS) for driver in (sleeper, rival)]
        witness.poll()
    words = [first.log(), second.log()]
    assert sorted(codes)[0] == 0, words
    assert sorted(codes)[1] in (1, HELD), words
    if whole:  # nobody was left to keep its lease
        assert codes[1] == 0, words
    assert witness.violations == []
    assert judge(ground.storage, ground.storage.at(name), expected).problems == ()


def wait_until(is_so: Callable[[], bool], driver: Driver, drivers: Drivers) -> None:
    """Return when it is so, or the driver ended with the code of a refusal."""
    end = time.monotonic() + LONGEST_SECONDS
    while not is_so():
        assert time.monotonic() < end, drivers.log()
        if driver.is_over():
            assert driver.exit["code"] == HELD, drivers.log()
            return
        time.sleep(0.1)
