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

LINE_SECONDS, REFRESH_SECONDS = 15.0, 5.0
BAR = "{percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt}  {rate_noinv_fmt}  {remaining} left{postfix}"


class Progress:
    """Counts of a run, shown from a thread of its own; ``on_refresh`` is called every few seconds with them."""

    def __init__(self, total: int, on_refresh: Callable[["Progress"], None]) -> None:
        self.total, self.ok, self.error, self.segments = total, 0, 0, 0
        self.reasons: Counter[str] = Counter()
        self.transient: list[str] = []
        self._on_refresh, self._started, self._stop = on_refresh, time.monotonic(), threading.Event()
        self._bar = (
            tqdm(total=total, unit=" images", bar_format=BAR, dynamic_ncols=True) if sys.stderr.isatty() else None
        )
        self._thread = threading.Thread(target=self._tick, daemon=True)

    @property
    def done(self) -> int:
        """Images with a committed row."""
        return self.ok + self.error

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
        self.ok, self.error = self.ok + unit["ok"], self.error + unit["error"]
        self.segments += unit["segments"]
        self.reasons.update(dict(unit["reasons"]))
        if self._bar is not None:
            self._bar.set_postfix(errors=self.error, refresh=False)
            self._bar.update(unit["ok"] + unit["error"])

    def line(self) -> str:
        """The state as one plain line."""
        rate = self.done / self.seconds if self.seconds > 0 else 0.0
        left = f"{_duration((self.total - self.done) / rate)} left" if rate > 0 else "starting"
        return f"{self.done:,} of {self.total:,} images  {rate:.1f} images/s  {left}  {self.error:,} errors"

    def _tick(self) -> None:
        next_line = time.monotonic() + LINE_SECONDS
        while not self._stop.wait(REFRESH_SECONDS):
            with suppress(
                TransientError, RunError
            ):  # the next is seconds away, and a lost bucket stops the commits too
                self._on_refresh(self)
            if self._bar is not None:
                self._bar.refresh()
            elif time.monotonic() >= next_line:
                print(self.line(), flush=True)
                next_line = time.monotonic() + LINE_SECONDS


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds % 60)} s"
