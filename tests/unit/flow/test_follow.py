"""What the end of a followed attempt leaves: counts that are whole, whenever the stop comes."""

import os
import signal
import threading
import time

import pytest

from m2f_batch.flow.attempt import follow
from m2f_batch.flow.attempt.follow import quietly


def stop_in(seconds: float) -> threading.Timer:
    """Interrupt the main thread so much later, as the thread does that waits for what is in flight."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


def test_a_stop_that_comes_while_it_is_counted_waits_for_the_count() -> None:
    counted: list[int] = []

    def count() -> None:
        time.sleep(0.6)
        counted.append(64)

    timer = stop_in(0.2)
    with pytest.raises(KeyboardInterrupt):
        quietly(count, None)
    timer.join()
    assert counted == [64]


def test_a_stop_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LEAVE_SECONDS", 0.2)
    hangs = threading.Event()

    def wait() -> None:
        hangs.wait(60)

    timer, began = stop_in(0.2), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        quietly(wait, None)
    timer.join()
    assert time.monotonic() - began < 30
    hangs.set()
