"""The processes of one Ray cluster by what they do, and ways to kill them."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Scripts of this folder have it alone in their path: add the tests' folder and the project's.
sys.path += map(str, Path(__file__).resolve().parents[1:3])

from benchmarks.lib import ray_folder
from benchmarks.lib.ray_folder import kill_all as kill_all


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
    return [found for pid in ray_folder.processes_of(folder) for found in _read(pid)]


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


def wait_for(find: Callable[[], list[Process]], seconds: float) -> list[Process]:
    """What ``find`` finds once it finds anything; empty when the time is over."""
    end = time.monotonic() + seconds
    while not (found := find()) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def die_with_parent() -> None:
    """For ``preexec_fn``: SIGKILL to this process when the thread that started it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _read(pid: int) -> Iterator[Process]:
    place = Path("/proc") / str(pid)
    with suppress(OSError, ValueError):  # gone meanwhile
        title = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
        if state != "Z":
            yield Process(pid, int(parent), title)
