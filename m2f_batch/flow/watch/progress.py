"""Shows the progress of a run: a bar on a terminal, plain lines elsewhere, and a call that keeps run.json fresh."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from tqdm import tqdm

from m2f_batch.errors import RunError, TransientError
from m2f_batch.flow.unit.units import DoneUnit
from m2f_batch.flow.watch.busy import Busy, Slots
from m2f_batch.messages.events import STATE, Events
from m2f_batch.messages.spoken import duration
from m2f_batch.runs.forward_kinds import Forwards
from m2f_batch.runs.tally import Tally, tally_of_unit

LINE_SECONDS, REFRESH_SECONDS, LONG_START_SECONDS = 15.0, 5.0, 120.0
BAR = "{percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt}  {rate_noinv_fmt}  {remaining} left{postfix}"


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
        is_shown = self._events.is_shown and sys.stderr.isatty() and self._events.log == "text"
        self._bar = tqdm(total=total, unit=" images", bar_format=BAR, dynamic_ncols=True) if is_shown else None
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
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.close()

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
        if self._bar is not None:
            self._bar.set_postfix(errors=self.tally.error, refresh=False)
            self._bar.update(more.images)

    def recount(self, tally: Tally) -> None:
        """Take a count from storage, because units in flight may have been committed although their reply was lost."""
        self.mine = tally - self.base

    def begin_from(self, base: Tally) -> None:
        """Take the tally of earlier attempts."""
        if self._bar is not None:
            self._bar.initial = base.images
            self._bar.update(base.images - self.base.images)
        self.base = base

    def line(self) -> str:
        """Return the state as one plain line."""
        rate, seconds_left = self.labeled / self.seconds if self.seconds > 0 else 0.0, self.seconds_left
        waiting = "starting" if self.seconds < LONG_START_SECONDS else "no result yet (waiting for nodes?)"
        left = waiting if seconds_left is None else f"{duration(seconds_left)} left"
        return f"{self.done:,} of {self.total:,} images  {rate:.1f} images/s  {left}  {self.tally.error:,} errors"

    def _tick(self) -> None:
        next_line = time.monotonic() + LINE_SECONDS
        while not self._stop.wait(REFRESH_SECONDS):
            # the next refresh is seconds away, and a lost bucket stops the commits too
            with suppress(TransientError, RunError):
                self._on_refresh(self)
            if self._bar is not None:
                self._bar.refresh()
            elif time.monotonic() >= next_line:
                for line in (self.line(), *self.busy.lines()):
                    self._events.say(line, STATE, done=self.done, total=self.total, errors=self.tally.error)
                next_line = time.monotonic() + LINE_SECONDS
