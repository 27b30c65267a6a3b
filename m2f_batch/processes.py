"""How processes share the cores of this machine: a map over them, and threads that wait without using one."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

from m2f_batch.errors import RunError

_A = TypeVar("_A")
_T = TypeVar("_T")
# OpenMP's threads sleep while they wait for each other. By default they spin for milliseconds, on cores that others
# want too: with one other busy process on the machine a step of training was seen to take 3 to 12 times as long.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}


def let_threads_sleep() -> None:
    """Set ``PASSIVE`` for this process and those that it starts, unless the user has set it otherwise.

    OpenMP reads it once, when it is loaded: call this before torch is imported.
    """
    for name, value in PASSIVE.items():
        os.environ.setdefault(name, value)


def in_processes(act: Callable[[_A], _T], items: Iterable[_A], workers: int | None = None) -> Iterator[_T]:
    """``map`` in as many processes as there are cores, in the order in which they end, a few items ahead.

    The processes are new ones, not forks, so that no thread's lock comes with them: ``act`` and ``items`` are pickled,
    and each process imports what ``act`` needs. Raises what ``act`` raises, RunError when a process dies.
    """
    workers = workers or os.cpu_count() or 1
    left = iter(items)
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_leave_signals_to_the_parent)
    try:
        running: set[Future[_T]] = {pool.submit(act, item) for item in islice(left, 2 * workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(act, item) for item in islice(left, len(done))}
            yield from (future.result() for future in done)
    except BrokenProcessPool:
        raise RunError("a process that was started for this died; is there too little memory?") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_signals_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all of them
