"""One number of CPU threads while something computes, since another number rounds differently.

OpenMP keeps the number per thread, MKL one for the process, and ``torch.set_num_threads`` sets both.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def pinned_threads(threads: int) -> Iterator[None]:
    """Torch with a fixed number of CPU threads in this thread and process; the old number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Shared:
    """Who counts on which number, and the thread that holds it for them."""

    changed = threading.Condition()
    holders, number = 0, 0
    released = threading.Event()
    keeper: threading.Thread


@contextmanager
def process_threads(threads: int) -> Iterator[None]:
    """A fixed number for the process as long as anyone asks for it; a caller's own thread keeps its number.

    Several callers share one number; one who wants another waits until they are done.
    """
    torch.get_num_threads()  # a new thread takes the process' number when torch first asks, so before it is changed
    with _Shared.changed:
        _Shared.changed.wait_for(lambda: _Shared.holders == 0 or _Shared.number == threads)
        if _Shared.holders == 0:
            _start_keeper(threads)
        _Shared.holders += 1
    try:
        yield
    finally:
        with _Shared.changed:
            _Shared.holders -= 1
            if _Shared.holders == 0:
                _Shared.released.set()
                _Shared.keeper.join()
                _Shared.changed.notify_all()


def _start_keeper(threads: int) -> None:
    """A fresh thread begins with the process' own number, and gives it back."""
    pinned, released = threading.Event(), threading.Event()

    def keep() -> None:
        with pinned_threads(threads):
            pinned.set()
            released.wait()

    _Shared.number, _Shared.released = threads, released
    _Shared.keeper = threading.Thread(target=keep, name="torch threads", daemon=True)
    _Shared.keeper.start()
    pinned.wait()
