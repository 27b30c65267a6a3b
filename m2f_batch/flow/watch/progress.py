"""Shows the progress of a run: a table on a terminal, plain lines elsewhere, and a call that keeps run.json fresh."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from m2f_batch.errors import RunError, TransientError
from m2f_batch.flow.unit.units import DoneUnit
from m2f_batch.flow.watch.busy import Busy, Slots
from m2f_batch.messages.colors import is_live
from m2f_batch.messages.events import STATE, Events
from m2f_batch.messages.spoken import duration
from m2f_batch.messages.terminal import is_quiet
from m2f_batch.runs.forward_kinds import Forwards
from m2f_batch.runs.tally import Tally, tally_of_unit

if TYPE_CHECKING:
    from m2f_batch.messages.live import LiveTable

LINE_SECONDS, REFRESH_SECONDS, LONG_START_SECONDS = 15.0, 5.0, 120.0


class Progress:
    """Counts a run and shows it from a thread of its own, which calls ``on_refresh`` every few seconds."""

    def __init__(
        self, total: int, slots: Slots, on_refresh: Callable[["Progress"], None], events: Events | None = None
    ) -> None:
        self.total, self.busy = total, Busy(slots)
        self.base, self.mine = Tally(), Tally()  # done before this attempt, and in it
        self.transient: list[str] = []
        self.retries, self.forwards = 0, Forwards()
        self._events = events or Events()
        self._on_refresh, self._started, self._stop = on_refresh, time.monotonic(), threading.Event()
        is_shown = self._events.is_shown and self._events.log == "text" and not is_quiet()
        self._table = self._new_table() if is_shown and is_live(sys.stderr) else None
        self._thread = threading.Thread(target=self._tick, daemon=True)

    @property
    def tally(self) -> Tally:
        """The committed rows."""
        return self.base + self.mine

    @property
    def done(self) -> int:
        """Images with a committed row."""
        return self.base.images + self.mine.images

    @property
    def labeled(self) -> int:
        """Images that got their row in this attempt."""
        return self.mine.images

    @property
    def seconds(self) -> float:
        """The seconds since the run began."""
        return time.monotonic() - self._started

    @property
    def seconds_left(self) -> float | None:
        """The seconds left at the rate of this attempt, None before its first image."""
        return (self.total - self.done) * self.seconds / self.labeled if self.labeled and self.seconds > 0 else None

    def __enter__(self) -> "Progress":
        self._thread.start()
        if self._table is not None:
            self._table.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        try:
            if self._table is not None:
                self._table.stop()  # at once: a second Ctrl-C while storage is slow must find the terminal as it was
        finally:
            self._thread.join()

    def add(self, unit: DoneUnit) -> None:
        """Count one committed unit, or one that could not be fetched whole."""
        if unit["transient"] is not None:
            self.transient.append(unit["transient"])
            return
        self.busy.add(unit)
        if line := self.forwards.add(unit):
            self._events.say(line, "forward", process=unit["replica"])
        self.retries += unit.get("retries") or 0
        # a new tally, because the thread that shows it must never see half a unit
        more = tally_of_unit(unit)
        self.mine = self.mine + more

    def recount(self, tally: Tally) -> None:
        """Take a count from storage, because units in flight may have been committed although their reply was lost."""
        self.mine = tally - self.base

    def begin_from(self, base: Tally) -> None:
        """Take the tally of earlier attempts."""
        self.base = base

    def line(self) -> str:
        """Return the state as one plain line."""
        return f"{self.done:,} of {self.total:,} images  {self._pace()}  {self.tally.error:,} errors"

    def _pace(self) -> str:
        rate, seconds_left = self.labeled / self.seconds if self.seconds > 0 else 0.0, self.seconds_left
        waiting = "starting" if self.seconds < LONG_START_SECONDS else "no result yet (waiting for nodes or CPUs?)"
        left = waiting if seconds_left is None else f"{duration(seconds_left)} left"
        return f"{rate:.1f} images/s  {left}"

    def _new_table(self) -> "LiveTable":
        from m2f_batch.flow.watch.live import State, rows_of
        from m2f_batch.messages.live import LiveTable

        def state() -> State:
            advice = self.busy.lines()[1:]
            return State(
                done=self.done,
                total=self.total,
                errors=self.tally.error,
                pace=self._pace(),
                shares=self.busy.shares,
                advice=advice[0].strip() if advice else "",
            )

        return LiveTable(lambda: rows_of(state()))

    def _tick(self) -> None:
        next_line = time.monotonic() + LINE_SECONDS
        while not self._stop.wait(REFRESH_SECONDS):
            # the next refresh is seconds away, and a lost bucket stops the commits too
            with suppress(TransientError, RunError):
                self._on_refresh(self)
            if self._table is None and time.monotonic() >= next_line:
                for line in (self.line(), *self.busy.lines()):
                    self._events.say(line, STATE, done=self.done, total=self.total, errors=self.tally.error)
                next_line = time.monotonic() + LINE_SECONDS
