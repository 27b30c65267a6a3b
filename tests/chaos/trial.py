"""One schedule carried out: the command is disturbed, given again until it ends well, and its run judged."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import victims
from cluster import Cluster
from drivers import HELD, STOP_SECONDS, STOPPED, Drivers, environment_of, segment_arguments
from schedules import Event, Schedule
from storages import Storage
from unit_hook import Hook
from witness import Witness

TICK_SECONDS = 0.2
VICTIM_SECONDS = 4  # an event waits so long for a process of its kind
LONGEST_SECONDS = 600
SECONDS_PER_IMAGE = 0.5  # slept, so that units are under way when something is done to them
EXCUSED_SECONDS = 120  # after an event, on a machine where starting alone takes half a minute
SIGNALS = {
    "driver-kill": signal.SIGKILL,
    "driver-terminate": signal.SIGTERM,
    "driver-interrupt": signal.SIGINT,
}


@dataclass
class Outcome:
    """What happened; ``problems`` are broken promises seen on the way."""

    seconds: float = 0.0
    events: list[dict[str, Any]] = field(default_factory=list)
    exits: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    finished: bool = False


class Trial:
    """A schedule on a cluster; ``variables`` are the AWS settings of the drivers, perhaps through a proxy.

    ``hook`` holds the labelling back when it runs ahead of the events: of n, each has its share of the run.
    """

    def __init__(
        self,
        schedule: Schedule,
        cluster: Cluster,
        storage: Storage,
        hook: Hook,
        model: str,
        output: str,
        variables: dict[str, str],
        images: int,
    ) -> None:
        self.schedule, self._cluster, self._storage, self._output = schedule, cluster, storage, output
        self._hook, self._model, self._variables = hook, model, variables
        self._images, self._pace = images, 0.0
        self._rng = random.Random(f"victims {schedule.seed}")
        self._pending: list[tuple[float, Callable[[], object]]] = []  # what is to be done when
        self._restart_at: float | None = None
        self._pause = 0.0  # between the end of a driver that was asked to stop and the next one
        self._excused = 0.0  # until then a driver may end badly because of what was done
        self.outcome = Outcome()

    def run(self, log: Path) -> Outcome:
        """Carry it out; the drivers' words go to ``log``."""
        began = time.monotonic()
        witness = Witness(self._storage, self._output)
        with Drivers(environment_of(self._variables), log) as self._drivers:
            self._give_command()
            with witness:
                self._disturb(witness, began + LONGEST_SECONDS)
            witness.poll()
            self.outcome.exits = self._drivers.exits
        self.outcome.problems += witness.violations
        self.outcome.seconds = round(time.monotonic() - began, 1)
        return self.outcome

    def _give_command(self) -> None:
        self._restart_at = None
        self._drivers.start(
            segment_arguments(
                self._storage.source, self._output, self._model, self.schedule.settings, self._cluster.address
            )
        )

    def _disturb(self, witness: Witness, deadline: float) -> None:
        left = list(self.schedule.events)
        files, mark = 0, time.monotonic()  # files there at the last event, and its time
        committed_at: float | None = None  # of the first file since
        while time.monotonic() < deadline:
            time.sleep(TICK_SECONDS)
            now = time.monotonic()
            if committed_at is None and witness.files > files:
                committed_at = now
            self._do_pending(now)
            self._keep_pace(witness.files, files + 1, len(left))
            if self._is_over():
                return
            is_there = self._restart_at is None and not self._drivers.current.is_over()
            if (
                left
                and is_there
                and self._is_due(left[0], mark, committed_at, is_first=len(left) == len(self.schedule.events))
            ):
                event = left.pop(0)
                done = self._strike(event)
                so_far = {"files": witness.files, "labelled": len(self._hook.labelled())}
                self.outcome.events.append({"kind": event.kind, "done": done, **so_far})
                files, mark, committed_at = witness.files, time.monotonic(), None
        self.outcome.problems.append(f"not finished after {LONGEST_SECONDS} s")

    def _keep_pace(self, files: int, wanted: int, left: int) -> None:
        """Hold the labelling while the next event is late, if the ``wanted`` files are there that it waits for.

        Not while a driver drains, nor after the last event.
        """
        events = len(self.schedule.events)
        share = max(wanted, self.schedule.files(self._images) * (events - left + 1) / (events + 1))
        draining = self._drivers.current.signalled and not self._drivers.current.is_over()
        pace = float("inf") if left and files >= share and not draining else SECONDS_PER_IMAGE if left else 0.0
        if pace != self._pace:
            self._hook.pace(pace)
            self._pace = pace

    @staticmethod
    def _is_due(event: Event, mark: float, committed_at: float | None, *, is_first: bool) -> bool:
        since = mark if event.hasty and not is_first else committed_at
        return since is not None and time.monotonic() >= since + event.after

    def _do_pending(self, now: float) -> None:
        due = [entry for entry in self._pending if entry[0] <= now]
        self._pending = [entry for entry in self._pending if entry[0] > now]
        for _, act in due:
            act()
        for driver in self._drivers.all:
            driver.wake()
            overdue = driver.signalled and now > driver.signalled + STOP_SECONDS
            if overdue and not driver.is_over():
                self.outcome.problems.append(f"still there {STOP_SECONDS} s after {driver.ended_by}")
                driver.end()
        if self._restart_at is not None and now >= self._restart_at:
            self._give_command()

    def _is_over(self) -> bool:
        """Whether all drivers are gone and the last ended well; if it did not, the command is given again.

        Or whether there is no use in that: it ended badly for a long time without any more being done to it.
        """
        if self._restart_at is not None or not self._drivers.current.is_over():
            return False
        exit_ = self._drivers.current.exit
        if exit_["code"] == 0:
            self.outcome.finished = all(driver.is_over() for driver in self._drivers.all) and not self._pending
            return self.outcome.finished
        if self._judge_exit(exit_):
            return True
        stopped = exit_["code"] == STOPPED
        self._restart_at = time.monotonic() + (self._pause if stopped else 1.0 if exit_["code"] == HELD else 0.0)
        return False

    def _judge_exit(self, exit_: dict[str, Any]) -> bool:
        """Notes what a driver said at its end, and an exit code that is not excused; returns whether to give up."""
        said = [line for line in self._drivers.log().splitlines() if line.startswith("m2f-batch segment:")]
        exit_["said"] = said[-1][:300] if said and exit_["code"] > 0 else ""
        stopped = exit_["ended_by"] in ("SIGTERM", "SIGINT")
        was_held = exit_["code"] == HELD and "is held by another run" in exit_["said"]  # before the signal came to it
        if stopped and exit_["code"] != STOPPED and not was_held:
            self.outcome.problems.append(f"exit code {exit_['code']} after {exit_['ended_by']}")
        elif not exit_["ended_by"] and time.monotonic() > self._excused:
            self.outcome.problems.append(f"exit code {exit_['code']} although nothing was done to it")
            return True
        return False

    def _strike(self, event: Event) -> str | None:
        """Do it; returns what was done, None when there was nobody to do it to."""
        now, folder = time.monotonic(), self._cluster.folder
        self._excused = now + EXCUSED_SECONDS
        pause = event.details.get("pause", 0.0)
        if event.kind in ("actor", "task", "helper"):
            return self._kill_one(event.kind) or self._kill_one("task", "idle", "helper", "actor")
        if event.kind in ("raylet", "node"):
            found = victims.wait_for(lambda: victims.worker_raylets(folder), VICTIM_SECONDS)
            if not found:
                return None
            raylet = self._rng.choice(found)
            killed = [raylet] if event.kind == "raylet" else victims.node_of(folder, raylet)
            for process in killed:
                process.signal(signal.SIGKILL)
            self._pending.append((now + pause, self._cluster.heal))
            return f"SIGKILL to {len(killed)} processes; another node after {pause} s"
        if event.kind == "head":
            return self._lose_cluster()
        return self._strike_driver(event, pause)

    def _kill_one(self, *roles: str) -> str | None:
        """SIGKILL to one of some roles; a worker between two tasks is called idle."""
        found = victims.wait_for(lambda: victims.by_role(self._cluster.folder, *roles), VICTIM_SECONDS)
        if not found:
            return None
        victim = self._rng.choice(found)
        return f"SIGKILL to {victim.title[:80]}" if victim.signal(signal.SIGKILL) else None

    def _strike_driver(self, event: Event, pause: float) -> str | None:
        driver, self._pause = self._drivers.current, pause
        if driver.is_over():
            return None
        if event.kind in SIGNALS:
            driver.wake(now=True)
            driver.signal(SIGNALS[event.kind])
            if event.kind == "driver-kill":
                driver.process.wait()
                driver.is_over()
                self._restart_at = time.monotonic() + pause
                return f"SIGKILL; the command again after {pause} s"
            return SIGNALS[event.kind].name
        asleep = event.details["asleep"]
        driver.sleep(asleep)
        if event.kind == "driver-rival":
            self._restart_at = time.monotonic() + pause
            return f"SIGSTOP for {asleep} s; a second one after {pause} s"
        return f"SIGSTOP for {asleep} s"

    def _lose_cluster(self) -> str | None:
        """The head is gone, and with it the cluster; its driver is not waited for. A new one starts elsewhere."""
        for process in victims.by_role(self._cluster.folder, "gcs", "raylet"):
            process.signal(signal.SIGKILL)
        self._cluster.stop()
        self._pending.clear()
        for driver in self._drivers.all:
            if not driver.is_over():
                driver.wake(now=True)
                driver.signal(signal.SIGKILL)
        self._drivers.current.process.wait()
        self._cluster.start()
        self._give_command()
        return "SIGKILL to the head; another cluster, the command again"
