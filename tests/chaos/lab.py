"""What all schedules share: images on each storage, their rows in a run never disturbed, one cluster, the hook."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import Cluster
from drivers import Drivers, environment_of, segment_arguments
from faults import faulty_way
from judge import judge
from schedules import Schedule
from storages import Bucket, Disk, Storage, images, rows_of, s3_server
from trial import Trial
from unit_hook import Hook

from m2f_batch.records import Row

MODEL = str(Path(__file__).resolve().parents[2] / "m2f_batch" / "demo" / "model")
UNDISTURBED_SECONDS = 400


@dataclass
class Lab:
    """Storages by name (disk, s3), one cluster for one schedule after the other, and a folder for logs."""

    folder: Path
    hook: Hook
    cluster: Cluster
    storages: dict[str, Storage]
    _expected: dict[str, list[Row]] = field(default_factory=dict)

    def expect(self, place: str, rows: list[Row]) -> None:
        """What runs on a storage must end with, where that is known without running the command."""
        self._expected[place] = rows

    def expected(self, place: str) -> list[Row]:
        """The rows of the command, never disturbed. Raises RuntimeError when even that does not end well."""
        if place not in self._expected:
            storage, log = self.storages[place], self.folder / f"undisturbed-{place}.log"
            self.hook.begin(0.0)
            with Drivers(environment_of(storage.variables), log) as drivers:
                arguments = segment_arguments(
                    storage.source, storage.at("undisturbed"), MODEL, {"compute.actors": "2"}, self.cluster.address
                )
                code = drivers.start(arguments).process.wait(UNDISTURBED_SECONDS)
                if code:
                    raise RuntimeError(f"undisturbed run on {place}: exit code {code}: {drivers.log()[-2000:]}")
            self._expected[place] = rows_of(storage, storage.at("undisturbed"))
        return self._expected[place]

    def carry_out(self, schedule: Schedule) -> dict[str, Any]:
        """One schedule, from a healed cluster to the verdict, as a line of the report."""
        storage, name = self.storages[schedule.place], f"run-{schedule.seed}"
        expected = self.expected(schedule.place)
        self.cluster.heal()
        self.hook.begin(0.0)
        with faulty_way(schedule, storage.variables) as way:
            trial = Trial(
                schedule, self.cluster, storage, self.hook, MODEL, storage.at(name), way.variables, len(expected)
            )
            outcome = trial.run(self.folder / f"{name}.log")
        verdict = judge(storage, storage.at(name), expected)
        done = [event for event in outcome.events if event["done"]]
        return {
            **schedule.describe(),
            "counts": outcome.finished and 2 * len(done) >= len(schedule.events),
            "done": outcome.events,
            "events_done": len(done),
            "faults": way.injected,
            "attempts": len(outcome.exits),
            "exits": outcome.exits,
            "seconds": outcome.seconds,
            "units_labelled": sum(self.hook.labelled().values()),
            "rows": verdict.rows,
            "lost": verdict.lost,
            "doubled": verdict.doubled,
            "changed": verdict.changed,
            "problems": [*outcome.problems, *verdict.problems],
        }


@contextlib.contextmanager
def lab(image_count: int, s3: str | None = "moto", folder: Path | None = None) -> Iterator[Lab]:
    """All of it, up and running; ``s3`` is moto, ceph or None (no bucket). Everything is ended and removed at the end.

    Logs stay where ``folder`` is given.
    """
    place = folder or Path(tempfile.mkdtemp(prefix="chaos-lab-"))
    place.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="chaos-work-"))
    try:
        with contextlib.ExitStack() as stack:
            hook, files = Hook(work / "hook"), images(image_count)
            storages: dict[str, Storage] = {"disk": Disk(work / "disk", files)}
            keys: dict[str, str] = {}
            if s3 is not None:
                keys = stack.enter_context(s3_server(s3, work / "s3"))
                storages["s3"] = Bucket(keys, files)
            cluster = stack.enter_context(Cluster({**keys, **hook.variables}))
            yield Lab(place, hook, cluster, storages)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)
