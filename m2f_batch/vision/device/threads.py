"""Fixes the number of CPU threads of a thread that computes, because another number rounds differently.

OpenMP and MKL keep the number per thread. ``torch.set_num_threads`` sets both, and with them what threads that are born
later begin with.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_one_at_a_time = threading.Lock()  # a thread born meanwhile would take the number for the process' own


@contextmanager
def pinned_threads(threads: int) -> Iterator[None]:
    """Give torch a fixed number of CPU threads in this thread, and the old number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pin_threads(threads: int) -> None:
    """Give torch a fixed number of CPU threads in this new thread for good, and in no other."""
    with _one_at_a_time:
        _pin(threads)


def _pin(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    # from another thread, so that those born later begin as this one did
    restore = threading.Thread(target=torch.set_num_threads, args=(before,))
    restore.start()
    restore.join()
