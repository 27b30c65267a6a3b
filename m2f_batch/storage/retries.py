"""Retries what failed in passing, by jittered exponential backoff within a budget of seconds, and counts it.

The S3 client tries each request again itself (``s3/client``), and units whose process died begin again in
``flow/workers``. Images that ``--retry`` labels anew are found by ``flow/attempt/output_state``.
"""

import itertools
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from m2f_batch.errors import TransientError
from m2f_batch.storage.store import Unreachable

_T = TypeVar("_T")

WRITE_SECONDS = 120.0  # budget of one read or write of a run's own files


class Retries:
    """Bounds how long an act is tried again, and counts how often that was needed. Threads may share it.

    ``budget`` is the seconds from an act's first try until no other is begun. Each wait is drawn between 0 and
    ``first_wait`` seconds, a bound that doubles up to ``longest_wait``, because the many clients of a throttled bucket
    must not return together. ``count`` is the number of tries after a first one.
    """

    def __init__(
        self,
        budget: float = 120.0,
        first_wait: float = 0.5,
        longest_wait: float = 20.0,
        sleep: Callable[[float], None] = time.sleep,
        passing: tuple[type[Exception], ...] = (TransientError, Unreachable),
    ) -> None:
        self._passing = passing
        self.budget, self._first_wait, self._longest_wait, self._sleep = budget, first_wait, longest_wait, sleep
        self.count = 0
        self._lock = threading.Lock()

    def run(self, act: Callable[[], _T]) -> _T:
        """Returns what ``act`` returns, once it does not fail in passing.

        Raises the last TransientError or Unreachable (what is ``passing``) once the budget is spent, and any other
        error at once.
        """
        began = time.monotonic()
        for tries in itertools.count(1):
            try:
                return act()
            except self._passing as error:
                wait = random.uniform(0, min(self._longest_wait, self._first_wait * 2.0 ** min(tries - 1, 30)))
                if time.monotonic() - began + wait > self.budget:
                    raise type(error)(f"{error} ({tries} tries in {self.budget:g} s)") from error
                with self._lock:
                    self.count += 1
                count_retry()
                self._sleep(wait)
        raise AssertionError("unreachable")


def retry_before_run(act: Callable[[], _T]) -> _T:
    """Retries transient answers for 60 s. Raises Unreachable at once, because the endpoint may be wrong."""
    return Retries(budget=60.0, passing=(TransientError,)).run(act)


def retry_write(act: Callable[[], _T]) -> _T:
    """Retries transient faults with back-off for 120 s. ``act`` must be idempotent."""
    return Retries(budget=WRITE_SECONDS).run(act)


def retried() -> int:
    """Returns the number of tries after a first one in this process: of all ``Retries``, and the S3 client's own."""
    with _LOCK:
        return _made


def count_retry() -> None:
    """Counts one more."""
    global _made
    with _LOCK:
        _made += 1


_LOCK = threading.Lock()
_made = 0
