"""Stops a run or a training at Ctrl-C and SIGTERM, after what is under way is finished, as long as that is soon.

``flow/attempt/follow`` listens for runs, ``train/command`` for trainings. ``cli`` ends other commands with 130, and
``submit/interrupts`` answers Ctrl-C while a job is followed.

A stop is a stop even where its exception is lost. Python raises that wherever the main thread happens to be, which may
be a library's callback or destructor that prints an exception and goes on.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 130  # the exit code of a command that was stopped
DRAIN_SECONDS = 15.0  # an exit takes some seconds more, and Kubernetes kills after 30
POLL_SECONDS = 0.2


@contextmanager
def noticed_stops(drained: Callable[[], bool] | None = None) -> Iterator[Callable[[], None]]:
    """Give a check that raises KeyboardInterrupt when a signal has come since. Handlers do what they did, too.

    With ``drained``, the first signal only has it called in a thread, until it says that nothing is under way any more,
    or for some seconds. Then, or at a second signal, the run is stopped.
    """
    asked, draining = threading.Event(), threading.Event()

    def check() -> None:
        if asked.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals are none of its business
        yield check
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    over = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        if drained is not None and not draining.is_set():
            draining.set()
            threading.Thread(target=_drain, args=(drained, over, number), daemon=True).start()
            return
        asked.set()
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    noted = [number for number, handler in before.items() if callable(handler)]  # what is ignored stays ignored
    for number in noted:
        signal.signal(number, note)
    try:
        yield check
        if draining.is_set():
            raise KeyboardInterrupt  # the stream came to its end before the thread said so
    finally:
        over.set()
        for number in noted:
            signal.signal(number, before[number])


def _drain(drained: Callable[[], bool], over: threading.Event, number: int) -> None:
    until = time.monotonic() + DRAIN_SECONDS
    try:
        while time.monotonic() < until and not over.is_set():
            if drained():
                break
            time.sleep(POLL_SECONDS)
    finally:  # whatever is wrong with it
        if not over.is_set():
            os.kill(os.getpid(), number)  # from outside, so that it interrupts whatever the main thread waits for
