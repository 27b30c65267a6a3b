"""Ctrl-C and SIGTERM stop a run even where the exception that they raise is lost.

Python raises it wherever the main thread happens to be. That may be in a library's callback or destructor, which print
an exception and go on.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noticed_stops() -> Iterator[Callable[[], None]]:
    """Gives a check that raises KeyboardInterrupt when a signal has come since. Handlers do what they did, too."""
    asked = threading.Event()

    def check() -> None:
        if asked.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals are none of its business
        yield check
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        asked.set()
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    noted = [number for number, handler in before.items() if callable(handler)]  # what is ignored stays ignored
    for number in noted:
        signal.signal(number, note)
    try:
        yield check
    finally:
        for number in noted:
            signal.signal(number, before[number])
