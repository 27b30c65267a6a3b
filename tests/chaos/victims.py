"""The processes of one Ray cluster, found in /proc by the directory that Ray was given, and ways to kill them.

Other Rays run on the same machine: a process counts as ours only if its environment names our directory, or its
standard output or error is a file in there (the titles that Ray gives to workers overwrite what /proc shows of their
environment).
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process as /proc shows it: its title, its parent, and whether it is stopped."""

    pid: int
    parent: int
    title: str

    @property
    def role(self) -> str:
        """raylet, gcs, actor (a model replica), task (of a map), idle (a worker), helper (other actors), or other."""
        name = os.path.basename(self.title.split(" ")[0])
        if name in ("raylet", "gcs_server"):
            return name.removesuffix("_server")
        if not self.title.startswith("ray::"):
            return "other"
        if self.title.startswith("ray::IDLE"):
            return "idle"
        if self.title.startswith("ray::MapWorker"):
            return "actor"
        return "task" if self.title.startswith("ray::Map") else "helper"

    def signal(self, number: int) -> bool:
        """Send a signal; False when it is gone."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def processes_of(folder: Path) -> list[Process]:
    """All live processes of the Ray whose temporary directory is ``folder``, but this one."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return [found for pid in pids if pid != os.getpid() for found in _read(pid, str(folder).encode())]


def by_role(folder: Path, *roles: str) -> list[Process]:
    """Its processes of some roles."""
    return [process for process in processes_of(folder) if process.role in roles]


def worker_raylets(folder: Path) -> list[Process]:
    """The raylets of nodes other than the head."""
    return [raylet for raylet in by_role(folder, "raylet") if "--head" not in raylet.title.split(" ")]


def node_of(folder: Path, raylet: Process) -> list[Process]:
    """A raylet and all below it."""
    found, everything = [raylet], processes_of(folder)
    for process in found:
        found += [child for child in everything if child.parent == process.pid]
    return found


def kill_all(folder: Path) -> int:
    """SIGKILL to all; returns how many there were."""
    found = processes_of(folder)
    for process in found:
        process.signal(signal.SIGKILL)
    return len(found)


def wait_for(find: Callable[[], list[Process]], seconds: float) -> list[Process]:
    """What ``find`` finds once it finds anything; empty when the time is over."""
    end = time.monotonic() + seconds
    while not (found := find()) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def die_with_parent() -> None:
    """For ``preexec_fn``: SIGKILL to this process when the thread that started it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _read(pid: int, folder: bytes) -> Iterator[Process]:
    place = Path("/proc") / str(pid)
    with suppress(OSError, ValueError):  # gone meanwhile, or not ours to look at
        if folder not in (place / "environ").read_bytes() and not _writes_into(place, folder):
            return
        title = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
        if state != "Z":
            yield Process(pid, int(parent), title)


def _writes_into(place: Path, folder: bytes) -> bool:
    return any(os.readlink(place / "fd" / number).encode().startswith(folder) for number in ("1", "2"))
