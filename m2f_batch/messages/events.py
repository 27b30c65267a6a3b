"""Keeps the structured log of an attempt: one JSON object per line, shown or not, never with keys in it.

    {"time": "2026-11-21T15:04:05.123+00:00", "level": "info", "event": "state", "run_id": "...", "attempt": 1,
     "host": "...", "pid": 7, ...}

``level`` is error for the end of a run, warning for what somebody should look at, info for the rest. ``say`` shows an
event to the user too, of warnings and errors alone where ``is_quiet``: its text, or in a json run its line. ``emit``
logs an event that only the log needs. Without a ``show`` nobody is told, and the log is kept all the same.
"""

import heapq
import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

from m2f_batch.messages.colors import colored
from m2f_batch.messages.log_values import redacted
from m2f_batch.messages.terminal import is_quiet, printable

STATE = "state"  # the event of the regular progress lines, which are the first to be dropped
MAX_BYTES = 2 << 20  # of kept lines: a day of state lines every 15 s in one small object
RESERVED = frozenset({"time", "event", "run_id", "attempt", "host", "pid"})
# of events without a level of their own
LEVELS = {"crash": "error", "no_lease": "warning", "deaths": "warning", "dropped": "warning"}


class Events:
    """The events of one attempt: kept for the log in storage, and shown as text or as JSON lines by ``show``."""

    def __init__(
        self,
        log: Literal["text", "json"] = "text",
        *,
        show: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.log, self._show = log, show
        self._clock, self._max_bytes = clock, max_bytes
        self._whose: dict[str, Any] = {"run_id": None, "attempt": None}
        self._where = {"host": socket.gethostname(), "pid": os.getpid()}
        self._kept: dict[bool, deque[tuple[int, bytes]]] = {True: deque(), False: deque()}  # by whether it is a state
        self._dropped = {True: 0, False: 0}
        self._bytes = self._emitted = self._written = 0
        self._failed: BaseException | None = None
        self._lock = threading.RLock()  # a signal's handler may log while this thread does

    def bind(self, run_id: str, attempt: int) -> None:
        """Name the run and the attempt of the lines from now on."""
        self._whose = {"run_id": run_id, "attempt": attempt}

    def emit(self, event: str, /, **fields: Any) -> None:
        """Log one event, and print it in a json run. Raises ValueError for a field with a name of ours."""
        self._add(event, fields, text=None)

    def say(self, text: str, event: str, /, **fields: Any) -> None:
        """Tell the user: ``text`` in a text run, the event in a json run, where ``text`` is its ``message``."""
        self._add(event, {"message": text} | fields, text=text)

    def failed(self, error: BaseException) -> None:
        """Log the error that has ended the attempt, or kept it from beginning, once."""
        if error is not self._failed:
            self._failed = error
            level = "error" if isinstance(error, Exception) else "warning"  # Ctrl-C and SIGTERM are none
            self.emit("failed", level=level, type=type(error).__name__, message=str(error))

    def lines(self) -> bytes:
        """Return every kept line in order, ASCII, each with its newline, behind a line about dropped ones."""
        return self._snapshot()[0]

    def messages(self) -> list[str]:
        """Return the kept lines as a user reads them, those without a text left out."""
        found = (json.loads(line).get("message") for line in self.lines().splitlines())
        return [message for message in found if message]

    @property
    def is_shown(self) -> bool:
        """True if somebody is told."""
        return self._show is not None

    @property
    def is_new_since_last_write(self) -> bool:
        """True if something happened since the last ``save`` that succeeded."""
        return self._emitted > self._written

    def save(self, write: Callable[[bytes], object]) -> None:
        """Hand all lines to ``write`` if there are new ones. When it raises they stay new."""
        if self.is_new_since_last_write:
            data, emitted = self._snapshot()
            write(data)
            self._written = emitted

    def _add(self, event: str, fields: dict[str, Any], text: str | None) -> None:
        level = _level(event, fields)
        line = self._line(event, level, fields)
        with self._lock:
            self._keep(event == STATE, line.encode())
            shown = line if self.log == "json" else text and printable(text)
            if shown is not None and self._show is not None and not (level == "info" and is_quiet()):
                self._show(shown)

    def _line(self, event: str, level: str, fields: dict[str, Any]) -> str:
        if RESERVED & fields.keys():
            raise ValueError(f"fields of a log line that have another meaning: {sorted(RESERVED & fields.keys())}")
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        head = {"time": now, "level": level, "event": event, **self._whose, **self._where}
        return json.dumps(head | redacted(fields), separators=(",", ":"))

    def _keep(self, is_state: bool, line: bytes) -> None:
        self._emitted += 1
        self._bytes += len(line)
        self._kept[is_state].append((self._emitted, line))
        while self._bytes > self._max_bytes:
            oldest = bool(self._kept[True])
            self._bytes -= len(self._kept[oldest].popleft()[1])
            self._dropped[oldest] += 1

    def _snapshot(self) -> tuple[bytes, int]:
        with self._lock:
            lines = [line for _, line in heapq.merge(*self._kept.values())]
            if any(self._dropped.values()):
                counts = {"state_lines": self._dropped[True], "other_lines": self._dropped[False]}
                lines.insert(0, self._line("dropped", LEVELS["dropped"], counts).encode())
            return b"".join(line + b"\n" for line in lines), self._emitted


def _level(event: str, fields: dict[str, Any]) -> str:
    """Return how much an event matters. That of a library brings its own level."""
    if "level" in fields:
        return str(fields["level"])
    is_warning = str(fields.get("message", "")).lstrip().startswith("warning")
    return "warning" if is_warning else LEVELS.get(event, "info")


class _ToEvents(logging.Handler):
    """Turns warnings of libraries into events."""

    def __init__(self, events: Events) -> None:
        super().__init__(logging.WARNING)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit: logging itself would print a traceback
            message = str(record.msg)
        fields = {"level": record.levelname.lower(), "logger": record.name, "message": message}
        if record.exc_info and record.exc_info[0] is not None:
            fields["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        self._events.emit("log", **fields)


def route_logging(events: Events) -> None:
    """Turn warnings, logs and uncaught exceptions into events for the rest of the process, in a json run.

    Call it again after a library has put handlers of its own on a logger. In a text run it changes nothing, and where
    nobody is told.
    """
    if events.log != "json" or not events.is_shown:
        return
    handler = _ToEvents(events)
    root = logging.getLogger()
    for logger in (root, *_loggers()):
        terminal = [each for each in logger.handlers if _is_terminal(each)]
        for each in terminal:
            logger.removeHandler(each)
        if logger is root or (terminal and not logger.propagate):
            logger.addHandler(handler)
    logging.captureWarnings(True)

    def on_exception(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        events.emit("crash", type=kind.__name__, message=str(error), traceback=text)

    sys.excepthook = on_exception
    threading.excepthook = lambda args: on_exception(args.exc_type, args.exc_value, args.exc_traceback)


def _loggers() -> Iterator[logging.Logger]:
    names = list(logging.root.manager.loggerDict)
    yield from (logging.getLogger(name) for name in names)


def _is_terminal(handler: logging.Handler) -> bool:
    """Return whether a handler prints, or is one of ours from an earlier call. Others are left alone."""
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return isinstance(handler, _ToEvents) or getattr(handler, "stream", None) in streams


def print_line(line: str) -> None:
    """Print a line, for ``show``. A reader who has gone away (``| head``) does not end a run."""
    try:
        print(line if line.startswith("{") else colored(line), flush=True)  # an object of a json run stays one
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
