"""Writes what others watch of an attempt every few seconds: run.json, the index of files, the log, metrics."""

import time
from collections.abc import Callable
from datetime import datetime

from m2f_batch.flow.attempt.hold_output import Attempt
from m2f_batch.flow.attempt.open_output import tally_of
from m2f_batch.flow.attempt.run_info import info_now
from m2f_batch.flow.unit.units import DoneUnit
from m2f_batch.flow.watch.lost_nodes import LostNodes
from m2f_batch.flow.watch.metrics import Metrics
from m2f_batch.flow.watch.progress import Progress
from m2f_batch.messages.spoken import duration
from m2f_batch.runs.index import entry_of, read_index, write_index
from m2f_batch.runs.plan import file_and_part
from m2f_batch.runs.tally import Tally, tally_of_unit

INDEX_SECONDS = 60.0  # a list of all files goes with it
LATE_SECONDS = 300.0  # before that, the rate is that of a start


class Reporter:
    """Reports on an attempt as soon as OUTPUT is open.

    ``opened`` gives the tally of earlier attempts, None until OUTPUT is open. ``deaths`` counts lost worker processes.
    """

    def __init__(self, attempt: Attempt, opened: Callable[[], Tally | None], deaths: Callable[[], int]) -> None:
        self._attempt, self._opened, self._count_deaths = attempt, opened, deaths
        self.deaths = 0
        self._base: Tally | None = None
        self._metrics, self._lost = Metrics(attempt.run.uri), LostNodes()
        deadline = attempt.work.info.get("deadline_at")
        self._deadline = None if deadline is None else datetime.fromisoformat(deadline).timestamp()
        self._is_late = False
        self._parts: dict[str, tuple[Tally, int]] = {}  # of files that are not whole, or not in the index yet
        self._indexed_at = time.monotonic()

    def add(self, unit: DoneUnit) -> None:
        """Take one unit that came back."""
        self._metrics.add(unit)
        if unit["transient"] is None:
            file, _, parts = file_and_part(unit["unit"])
            tally, left = self._parts.get(file, (Tally(), parts))
            self._parts[file] = tally + tally_of_unit(unit), left - 1

    def refresh(self, progress: Progress) -> None:
        """Write the state of this moment. Raises what storage raises."""
        self._refresh_times(progress)
        if self._base is None:
            self._base = self._opened()
            if self._base is None:
                return
            progress.begin_from(self._base)
        run = self._attempt.run
        busy, before = progress.busy, self.deaths
        self.deaths = max(before, self._count_deaths())
        if self.deaths > before:
            self._attempt.events.emit("deaths", units_begun_again=self.deaths)
        self._metrics.set_state(progress.total - progress.done, busy.shares, busy.replicas, deaths=self.deaths)
        info = info_now(self._attempt.work.info, progress)
        self._attempt.report(self._attempt.outcome(info))
        run.write_info(info)
        self._attempt.write_log()
        if time.monotonic() - self._indexed_at > INDEX_SECONDS:
            self._index()

    def _refresh_times(self, progress: Progress) -> None:
        """Report times, before OUTPUT is open too, because the wait for the first node may be the longest of all."""
        left = progress.seconds_left
        eta = None if left is None else time.time() + left
        self._metrics.set_times(0.0 if progress.labeled else progress.seconds, eta, self._deadline)
        self._metrics.set_nodes_lost(self._lost.count())
        progress.busy.look()
        if self._is_late or self._deadline is None or progress.seconds < LATE_SECONDS:
            return
        late = (time.time() if eta is None else eta) - self._deadline
        if late > 0 and progress.done < progress.total:
            self._is_late = True
            self._attempt.events.say(f"warning: the run will be {duration(late)} late for run.deadline", "late")

    def _index(self) -> None:
        self._indexed_at = time.monotonic()
        whole = {file: tally for file, (tally, left) in [*self._parts.items()] if left == 0}
        there = self._attempt.run.committed()
        known = {name: entry for name, entry in read_index(self._attempt.run).items() if name in there}
        for name, tally in whole.items():
            if name in there:
                version = there[name].version
                known[name] = entry_of(version, tally)
                self._parts.pop(name, None)
        write_index(self._attempt.run, known)

    def recount(self, progress: Progress) -> None:
        """Report how the attempt ended. The files tell what became of units that were in flight."""
        self.refresh(progress)
        if self._base is not None and progress.done != progress.total:
            progress.recount(tally_of(self._attempt.run, self._attempt.work))
            self.refresh(progress)

    def succeeded(self) -> None:
        """Report that the run was verified and ``_SUCCESS`` written."""
        self._metrics.succeeded()
