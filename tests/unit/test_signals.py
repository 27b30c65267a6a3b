"""A signal stops a run even when its exception is swallowed."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from m2f_batch import signals
from m2f_batch.signals import noticed_stops


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_lost_exception_is_raised_by_the_check(number):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, stop)
    try:
        with noticed_stops() as check:
            check()
            with pytest.raises(KeyboardInterrupt):  # as a library's callback loses it
                os.kill(os.getpid(), number)
            with pytest.raises(KeyboardInterrupt):
                check()
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noticed_stops() as check:
            os.kill(os.getpid(), signal.SIGINT)
            check()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def raising() -> Iterator[None]:
    """Both signals raise KeyboardInterrupt, as the command line has it."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def wait() -> None:
    """For a signal, as the main thread waits for a result."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        time.sleep(0.01)
    raise AssertionError("nobody stopped us")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("raising")
def test_what_is_under_way_is_drained_first(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(signals, "POLL_SECONDS", 0.01)
    asked = []

    def drained() -> bool:
        asked.append(threading.current_thread() is threading.main_thread())
        return len(asked) == 5

    with pytest.raises(KeyboardInterrupt), noticed_stops(drained) as check:
        os.kill(os.getpid(), number)
        check()  # the first signal stops nothing by itself
        wait()
    assert asked == [False] * 5


@pytest.mark.usefixtures("raising")
def test_without_a_signal_nothing_is_drained() -> None:
    with noticed_stops(lambda: pytest.fail("asked")) as check:
        check()


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("raising")
def test_a_second_signal_stops_at_once(second: int) -> None:
    with pytest.raises(KeyboardInterrupt), noticed_stops(lambda: False) as check:
        os.kill(os.getpid(), signal.SIGTERM)
        check()
        with pytest.raises(KeyboardInterrupt):  # a library loses it
            os.kill(os.getpid(), second)
        check()
        pytest.fail("it is not forgotten")


@pytest.mark.usefixtures("raising")
def test_draining_ends_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "DRAIN_SECONDS", 0.05)
    monkeypatch.setattr(signals, "POLL_SECONDS", 0.01)
    asked = []
    with pytest.raises(KeyboardInterrupt), noticed_stops(lambda: bool(asked.append(1))):
        os.kill(os.getpid(), signal.SIGTERM)
        wait()
    assert asked


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.usefixtures("raising")
def test_a_drain_that_fails_stops_the_run_all_the_same() -> None:
    def drained() -> bool:
        raise ValueError("a bug")

    with pytest.raises(KeyboardInterrupt), noticed_stops(drained):
        os.kill(os.getpid(), signal.SIGTERM)
        wait()
    for thread in threading.enumerate():
        if thread.name.endswith("(_drain)"):
            thread.join(60)


@pytest.mark.usefixtures("raising")
def test_a_stream_that_ends_while_it_is_drained_ends_in_a_stop() -> None:
    """Drained units come out of it, and then no more: that is not the end of the work."""
    asked = threading.Event()

    def drained() -> bool:
        asked.set()
        return False

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt), noticed_stops(drained):
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.wait(60)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    with noticed_stops(drained) as check:
        check()  # what was asked of the one before is over


@pytest.mark.usefixtures("raising")
def test_another_error_is_not_hidden_by_a_stop() -> None:
    with pytest.raises(ZeroDivisionError), noticed_stops(lambda: False):
        os.kill(os.getpid(), signal.SIGTERM)
        raise ZeroDivisionError


def test_in_another_thread_signals_are_left_alone() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    seen = []

    def run() -> None:
        with noticed_stops(lambda: True) as check:
            check()
            seen.extend(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert seen == handlers
