"""What child processes do in tests of isolation: a ``worker`` of ``flow.crashes.isolated`` each. They load no torch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from m2f_batch.errors import ImageError, RunError, TransientError


class Unpicklable(Exception):
    """An exception of a library that cannot be sent."""

    def __init__(self, one, two):
        super().__init__("three")


def acting(folder, *_):
    """An item's uri says what becomes of it: ``ok``, ``kill 11``, ``kill 9 twice``, ``exit 7``, ``hang``, ...

    ``folder`` keeps how often each was tried, and by which process.
    """

    def act(ref, enter):
        what, *arguments = ref.uri.split()
        tries = Path(folder, f"tries of {ref.uri}")
        with tries.open("a") as log:
            log.write(f"{os.getpid()}\n")
        times = len(tries.read_text().split())
        if ref.version != "fetch":
            enter("decode")
        if what == "kill" and not (arguments[1:] == ["twice"] and times > 2):
            os.kill(os.getpid(), int(arguments[0]))
            time.sleep(60)
        if what == "kills":  # another signal each time, as chaos beside a crash
            numbers = list(map(int, arguments))
            os.kill(os.getpid(), numbers[min(times, len(numbers)) - 1])
        if what == "exit":
            os._exit(int(arguments[0]))
        if what == "hang":
            time.sleep(600)
        if what == "orphan":  # a process of its own holds the pipe open when it dies
            os.set_inheritable(int(sys.argv[2]), True)
            subprocess.Popen(["sleep", "30"], close_fds=False)
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "bug":
            raise ZeroDivisionError("no number")
        if what == "unpicklable":
            raise Unpicklable(1, 2)
        if what == "lambda":
            return lambda: None
        if what == "transient":
            raise TransientError("s3: SlowDown")
        if what == "lost":
            raise RunError("s3: no bucket")
        if what == "bad":
            return ImageError("decode", "Corrupt", "bad")
        if what == "noisy":
            print("to stdout", flush=True)
            print("to stderr" * 100_000, file=sys.stderr, flush=True)
        return f"{ref.uri} by {os.getpid()}"

    return act


def dying_at_start(how, *_):
    """Ends before it is ready."""
    if how == "raise":
        raise RunError("model.uri: does not load")
    if how == "exit":
        print("some lines\nlibfoo.so: not found", file=sys.stderr, flush=True)
        os._exit(1)
    os.kill(os.getpid(), how)


def dying(folder, what):
    """A whole unit in one process, which dies of ``what`` without a word; ``folder`` as in ``acting``."""
    act = acting(folder, None)
    return lambda refs, enter: act(what, enter)
