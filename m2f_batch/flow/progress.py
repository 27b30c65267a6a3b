"""What a user sees while a run goes on: a bar on a terminal, plain lines elsewhere, and run.json kept fresh."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tqdm import tqdm

from m2f_batch.errors import RunError, TransientError
from m2f_batch.flow.busy import Busy, Places
from m2f_batch.storage.run import Tally

LINE_SECONDS, REFRESH_SECONDS, LONG_START_SECONDS = 15.0, 5.0, 120.0
BAR = "{percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt}  {rate_noinv_fmt}  {remaining} left{postfix}"


class Progress:
    """Counts of a run, shown from a thread of its own; ``on_refresh`` is called every few seconds with them."""

    def __init__(self, total: int, places: Places, on_refresh: Callable[["Progress"], None]) -> None:
        self.total, self.tally, self.busy = total, Tally(), Busy(places)
        self.transient: list[str] = []
        self._on_refresh, self._started, self._stop = on_refresh, time.monotonic(), threading.Event()
        self._bar = (
            tqdm(total=total, unit=" images", bar_format=BAR, dynamic_ncols=True) if sys.stderr.isatty() else None
        )
        self._thread = threading.Thread(target=self._tick, daemon=True)

    @property
    def done(self) -> int:
        """Images with a committed row."""
        return self.tally.ok + self.tally.error

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self._started

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.close()

    def add(self, unit: dict[str, Any]) -> None:
        """Count one committed unit, or one that could not be fetched whole."""
        if unit["transient"] is not None:
            self.transient.append(unit["transient"])
            return
        self.busy.add(unit)
        old = self.tally
        # a new one, not a changed one: the thread that shows it must never see half a unit
        self.tally = Tally(
            old.ok + unit["ok"],
            old.error + unit["error"],
            old.segments + unit["segments"],
            old.reasons + Counter(dict(unit["reasons"])),
        )
        if self._bar is not None:
            self._bar.set_postfix(errors=self.tally.error, refresh=False)
            self._bar.update(unit["ok"] + unit["error"])

    def line(self) -> str:
        """The state as one plain line."""
        rate = self.done / self.seconds if self.seconds > 0 else 0.0
        waiting = "starting" if self.seconds < LONG_START_SECONDS else "no result yet (waiting for nodes?)"
        left = f"{duration((self.total - self.done) / rate)} left" if rate > 0 else waiting
        return f"{self.done:,} of {self.total:,} images  {rate:.1f} images/s  {left}  {self.tally.error:,} errors"

    def _tick(self) -> None:
        next_line = time.monotonic() + LINE_SECONDS
        while not self._stop.wait(REFRESH_SECONDS):
            # the next is seconds away, and a lost bucket stops the commits too
            with suppress(TransientError, RunError):
                self._on_refresh(self)
            if self._bar is not None:
                self._bar.refresh()
            elif time.monotonic() >= next_line:
                print("\n".join([self.line(), *self.busy.lines()]), flush=True)
                next_line = time.monotonic() + LINE_SECONDS


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(59.9), duration(7322)
    ('0 min 59 s', '2 h 2 min')
    """
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds % 60)} s"
