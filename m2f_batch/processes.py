"""Maps over processes and threads, some items ahead, and names the environment variables of OpenMP and of Ray's start.

By those of OpenMP threads wait without using a core. By those of Ray a busy machine has longer to start it.
"""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from types import ModuleType
from typing import TypeVar

from m2f_batch.errors import RunError

_A = TypeVar("_A")
_T = TypeVar("_T")
# OpenMP's threads sleep while they wait for each other. By default they spin for milliseconds, on cores that others
# want too: with one other busy process on the machine a step of training was seen to take 3 to 12 times as long.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
# Seconds that a Ray that starts here may take. By default it gives up after 30 s, which a busy machine can need.
START_SECONDS = 180
FOR_START = {"RAY_raylet_start_wait_time_s": str(START_SECONDS)}
_script_lock = threading.Lock()  # of sys.modules["__main__"]


def let_threads_sleep() -> None:
    """Set ``PASSIVE`` for this process and those that it starts, unless the user has set it otherwise.

    OpenMP reads it once, when it is loaded: call this before torch is imported.
    """
    for name, value in PASSIVE.items():
        os.environ.setdefault(name, value)


def ahead(submit: Callable[[_A], _T], items: Iterable[_A], most: int) -> Iterator[tuple[_A, _T]]:
    """Yields each item with what ``submit`` has begun for it, in order.

    Up to ``most`` more are begun before an item is yielded, so that they go on while the caller works on it.

    >>> [*ahead(str, range(3), 2)]
    [(0, '0'), (1, '1'), (2, '2')]
    """
    left = iter(items)
    begun = deque((item, submit(item)) for item in islice(left, most))
    while begun:
        first = begun.popleft()
        begun.extend((item, submit(item)) for item in islice(left, 1))
        yield first


def in_threads(
    act: Callable[[_A], _T], items: Iterable[_A], threads: int, most: int, *, waits: bool = True, name: str = ""
) -> Generator[tuple[_A, _T], None, None]:
    """Yields each item with what ``act`` returns for it, in order.

    Up to ``most`` items are under way or done beside the one that is yielded. ``name`` begins the threads' names.

    Raises what ``act`` raises, at the item's turn. Then, or where nobody wants more, items that no thread has begun are
    dropped, and those that are under way are waited for if ``waits``.

    >>> [*in_threads(str, range(3), 2, 4)]
    [(0, '0'), (1, '1'), (2, '2')]
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    try:
        for item, future in ahead(lambda item: pool.submit(act, item), items, most):
            yield item, future.result()
    finally:
        pool.shutdown(wait=waits, cancel_futures=True)


def in_processes(act: Callable[[_A], _T], items: Iterable[_A], workers: int | None = None) -> Iterator[_T]:
    """``map`` in as many processes as there are cores, in the order in which they end, a few items ahead.

    The processes are new ones, not forks, so that no thread's lock comes with them: ``act`` and ``items`` are pickled,
    and each process imports what ``act`` needs, but not the script that calls. Raises what ``act`` raises, RunError
    when a process dies.
    """
    workers = workers or os.cpu_count() or 1
    left = iter(items)
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_leave_signals_to_the_parent)
    try:
        running = _submitted(pool, act, [*islice(left, 2 * workers)])
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= _submitted(pool, act, [*islice(left, len(done))])
            yield from (future.result() for future in done)
    except BrokenProcessPool:
        raise RunError("a process that was started for this died; is there too little memory?") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _submitted(pool: ProcessPoolExecutor, act: Callable[[_A], _T], items: list[_A]) -> set[Future[_T]]:
    """Submit items, which may start processes: these would run the caller's script again where it has no guard.

    So the script is hidden meanwhile. One thread at a time does so, because another would take the stand-in for it.
    """
    with _script_lock:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return {pool.submit(act, item) for item in items}
        finally:
            sys.modules["__main__"] = script


def _leave_signals_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all of them
