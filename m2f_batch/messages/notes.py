"""Hands on what a function notes about the files of a user while it reads them, to whoever listens.

Such lines come from far below, out of every reader of a format. Without a listener nobody is told.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str], object]

_listener: ContextVar[Listener | None] = ContextVar("_listener", default=None)


@contextmanager
def notes_to(listener: Listener | None) -> Iterator[None]:
    """Let ``listener`` hear the notes of this thread meanwhile, unless somebody hears them already."""
    token = _listener.set(_listener.get() or listener)
    try:
        yield
    finally:
        _listener.reset(token)


def note(line: str) -> None:
    """Tell the listener, if there is one."""
    listener = _listener.get()
    if listener is not None:
        listener(line)


def is_heard() -> bool:
    """Return whether somebody listens."""
    return _listener.get() is not None
