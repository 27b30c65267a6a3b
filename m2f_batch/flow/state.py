"""What an attempt leaves for those who watch it: run.json, the index of files, the log, metrics. Every few seconds."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from m2f_batch.flow.attempt import Attempt
from m2f_batch.flow.begin import tally_of
from m2f_batch.flow.metrics import Metrics
from m2f_batch.flow.progress import Progress
from m2f_batch.flow.run_info import info_now
from m2f_batch.result import tell_run
from m2f_batch.storage.index import entry_of, read_index, write_index
from m2f_batch.storage.plan import file_and_part
from m2f_batch.storage.tally import Tally, tally_of_unit

INDEX_SECONDS = 60.0  # a list of all files goes with it


class State:
    """Written as soon as OUTPUT is open; ``opened`` gives what was done before then, None until that is known."""

    def __init__(self, attempt: Attempt, opened: Callable[[], Tally | None], deaths: Callable[[], int]) -> None:
        self._attempt, self._opened, self._count_deaths = attempt, opened, deaths
        self.deaths = 0
        self._base: Tally | None = None
        self._metrics = Metrics(attempt.run.uri)
        self._parts: dict[str, tuple[Tally, int]] = {}  # of files that are not whole, or not in the index yet
        self._indexed_at = time.monotonic()

    def add(self, unit: Mapping[str, Any]) -> None:
        """Take one unit that came back."""
        self._metrics.add(unit)
        if unit["transient"] is None:
            file, _, parts = file_and_part(unit["unit"])
            tally, left = self._parts.get(file, (Tally(), parts))
            self._parts[file] = tally + tally_of_unit(unit), left - 1

    def refresh(self, progress: Progress) -> None:
        """Write what there is to say. Raises what storage raises."""
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
        tell_run(info)
        run.write_info(info)
        self._attempt.write_log()
        if time.monotonic() - self._indexed_at > INDEX_SECONDS:
            self._index()

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
        """Say how it ended. Where units were under way then, the files know what became of them."""
        self.refresh(progress)
        if self._base is not None and progress.done != progress.total:
            progress.recount(tally_of(self._attempt.run, self._attempt.work))
            self.refresh(progress)

    def succeeded(self) -> None:
        """The run was verified, and ``_SUCCESS`` is there."""
        self._metrics.succeeded()
