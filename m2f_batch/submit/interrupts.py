"""Handles Ctrl-C and SIGTERM while a job is followed, which goes on elsewhere unless somebody has it stopped."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal, NoReturn

Answer = Literal["stop", "leave", "go on"]
ANSWERS: dict[str, Answer] = {"s": "stop", "l": "leave", "g": "go on"}


class Terminated(KeyboardInterrupt):
    """SIGTERM, whose sender does not wait for an answer."""


@contextmanager
def noticed_sigterm() -> Iterator[None]:
    """Have SIGTERM raise Terminated in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def what_to_do(interrupt: KeyboardInterrupt, job_id: str) -> Answer:
    """Ask on a terminal what is to become of the job. Without one, or at a second Ctrl-C, it is left running."""
    if isinstance(interrupt, Terminated) or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "leave"
    question = f"\n{job_id} runs on the cluster. [s]top it, [l]eave it running, [g]o on following? "
    try:
        while True:
            print(question, end="", file=sys.stderr, flush=True)
            line = sys.stdin.readline()
            if not line:  # nobody is there any more
                return "leave"
            answer = ANSWERS.get(line.strip().lower()[:1])
            if answer:
                return answer
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return "leave"
