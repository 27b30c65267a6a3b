"""A child process works for its parent, one item at a time, and may die of one. Both ends of their pipe are here.

It is a Python of its own, never a fork (torch's threads and CUDA do not survive one), and imports nothing of the
parent's ``__main__``. On Linux it dies with the thread that started it.
"""

import ctypes
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, Generic, TypeVar

from m2f_batch.errors import ImageError, RunError, TransientError, UsageError
from m2f_batch.processes import PASSIVE
from m2f_batch.storage import allow
from m2f_batch.storage.s3 import settings

Enter = Callable[[str], None]  # says which stage of an item begins
Item = TypeVar("Item")
Answer = TypeVar("Answer")
Work = Callable[[Item, Enter], Answer]
START = "start"  # the stage before the first item
_BOOT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from m2f_batch.flow.crashes.isolated_child import serve
serve(int(sys.argv[2]), int(sys.argv[3]))
"""
_LOOK_SECONDS = 0.2  # between two looks whether it lives: a process that it left behind may hold its pipe open
_STOPPING_SECONDS = 60.0  # to write what a crash handler wants, and to give gigabytes back
_STDERR_BYTES = 4000
_PR_SET_PDEATHSIG = 1


class Died(Exception):
    """The process ended without an answer, in ``stage`` of an item, or None when it had none in work.

    ``returncode`` is subprocess' own: the negative signal, or an exit code. None: it was ended for being silent too
    long. ``stderr`` is the last that it wrote there.
    """

    def __init__(self, stage: str | None, returncode: int | None, stderr: str) -> None:
        super().__init__(stage, returncode, stderr)
        self.stage, self.returncode, self.stderr = stage, returncode, stderr


class Child(Generic[Item, Answer]):
    """The parent's end. ``ask`` starts a process where there is none, and leaves none behind when it died.

    ``prepare`` is called in the child once per life and returns what answers each item. ``limits`` are the seconds that
    each stage may be silent.
    """

    def __init__(self, prepare: Callable[[], Work[Item, Answer]], limits: Mapping[str, float]) -> None:
        self._prepare, self._limits = prepare, limits
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._stderr: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, when there is one."""
        return None if self._process is None else self._process.pid

    def ask(self, item: Item, stage: str) -> Answer:
        """Ask the child about an item, which begins with ``stage``.

        Raises Died, and what was raised in the child as itself. What is none of our own errors brings its traceback.
        """
        question = pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL)
        if self._process is None:
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send_bytes(question)
        except OSError:
            raise self._died(None) from None
        while True:
            message = self._receive(stage, self._limits[stage])
            if isinstance(message, _Done):
                return message.answer
            if isinstance(message, _Stage):
                stage = message.name

    def close(self) -> None:
        """End the process, if there is one. It keeps nothing that is worth waiting for."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for held in (self._pipe, self._stderr):
            if held is not None:
                held.close()
        self._process = self._pipe = self._stderr = None

    def _start(self) -> None:
        self._pipe, theirs = Pipe()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        with theirs:
            channel = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(channel), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                env=PASSIVE | os.environ | allow.environment() | settings.environment(),
                pass_fds=[channel],
            )
        with suppress(OSError):  # then it has died, which is seen below
            self._pipe.send_bytes(pickle.dumps(self._prepare))
        self._receive(None, self._limits[START])

    def _receive(self, stage: str | None, limit: float) -> "_Message[Answer]":
        """The next message. A death shows at the pipe or, if some process of the child's holds that open, by itself."""
        assert self._process is not None and self._pipe is not None
        until = time.monotonic() + limit
        while True:
            is_alive = self._process.poll() is None  # asked first: what it sent before it died counts
            if self._pipe.poll(_LOOK_SECONDS if is_alive else 0):
                try:
                    message: _Message[Answer] = pickle.loads(self._pipe.recv_bytes())
                except (EOFError, OSError):
                    raise self._died(stage) from None
                if isinstance(message, _Raised):
                    self.close()
                    raise _with_traceback(message.error, message.text)
                return message
            if not is_alive:
                raise self._died(stage)
            if time.monotonic() > until:
                self._process.kill()
                raise self._died(stage, is_silent=True)

    def _died(self, stage: str | None, *, is_silent: bool = False) -> Died:
        assert self._process is not None and self._stderr is not None
        try:
            returncode = self._process.wait(_STOPPING_SECONDS)
        except subprocess.TimeoutExpired:  # it lost its pipe and lives
            self._process.kill()
            returncode = self._process.wait()
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _STDERR_BYTES))
        stderr = self._stderr.read().decode(errors="replace")
        self.close()
        return Died(stage, None if is_silent else returncode, stderr)


@dataclass(frozen=True)
class _Ready:
    """The child has begun its life."""


@dataclass(frozen=True)
class _Stage:
    """The child begins a stage of the item."""

    name: str


@dataclass(frozen=True)
class _Done(Generic[Answer]):
    """The child has made this of the item."""

    answer: Answer


@dataclass(frozen=True)
class _Raised:
    """The child has raised this. ``text`` is its traceback."""

    error: Exception
    text: str


_Message = _Ready | _Stage | _Done[Answer] | _Raised


def _with_traceback(error: Exception, text: str) -> Exception:
    if not isinstance(error, (ImageError, RunError, TransientError, UsageError)):
        error.add_note(f"in a child process:\n{text}")
    return error


def serve(channel: int, parent: int) -> None:
    """Answer items from the pipe ``channel`` until the process ``parent`` closes it."""
    _live_and_die_with(parent)
    os.set_inheritable(channel, False)
    with Connection(channel) as pipe:

        def tell(message: _Message[object]) -> None:
            pipe.send_bytes(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))

        try:
            work = pickle.loads(_next(pipe))()
            tell(_Ready())
            while True:
                tell(_Done(work(pickle.loads(_next(pipe)), lambda stage: tell(_Stage(stage)))))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the parent's to handle
            tell(_Raised(_sendable(error), traceback.format_exc()))


def _live_and_die_with(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent says what follows
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # gigabytes on disk for each death that is expected
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        sys.exit(0)


def _next(pipe: Connection) -> bytes:
    try:
        return pipe.recv_bytes()
    except (EOFError, OSError):  # the parent needs no more
        sys.exit(0)


def _sendable(error: Exception) -> Exception:
    """Return the error, or its text where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  # an exception's own methods may raise anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
