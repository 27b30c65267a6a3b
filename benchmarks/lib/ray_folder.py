"""Finds and kills the processes of one Ray on this machine, by the temporary directory that it was given.

Other Rays run on the same machine. A process counts as ours only if its environment names our directory, or its
standard output or error is a file in there, because the titles that Ray gives to workers overwrite what /proc shows of
their environment.
"""

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path


def processes_of(folder: Path) -> list[int]:
    """Return the ids of all live processes of the Ray whose temporary directory is ``folder``, but for this one."""
    mark = str(folder).encode()
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return [pid for pid in pids if pid != os.getpid() and _is_of(Path(f"/proc/{pid}"), mark)]


def kill_all(folder: Path) -> None:
    """Kill them all, and what they had just begun to start."""
    for _ in range(20):
        found = processes_of(folder)
        if not found:
            return
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.25)


def free_port() -> int:
    """Return a TCP port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _is_of(process: Path, mark: bytes) -> bool:
    with suppress(OSError):  # gone meanwhile, or not ours to look at
        if (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return False
        if mark in (process / "environ").read_bytes():
            return True
        return any(os.readlink(process / "fd" / number).encode().startswith(mark) for number in ("1", "2"))
    return False
