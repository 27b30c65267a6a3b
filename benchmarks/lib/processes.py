"""Measures memory and CPU seconds of a job's processes while it runs, from outside, by kind of process."""

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")
# by what a process' command line begins with or holds; Ray's workers name what they do
KINDS = {
    "ray::MapWorker": "actors",
    "ray::Gate": "gate",
    "ray::": "workers",
    "/gcs_server": "gcs",
    "/raylet/raylet": "raylet",
}


@dataclass
class Watch:
    """Samples a process and its descendants every ``every`` seconds, from ``with`` on.

    ``mib``: by kind, (seconds since the start, private MiB of all of the kind, their number). ``cpu``: CPU seconds by
    kind. Private memory is RssAnon: what is shared, as the object store, is not counted for each.
    """

    pid: int
    every: float = 0.5
    mib: dict[str, list[tuple[float, float, int]]] = field(default_factory=dict)
    _cpu: dict[tuple[int, str], float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watch":
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def cpu(self) -> dict[str, float]:
        """CPU seconds by kind of process so far."""
        total: dict[str, float] = {}
        for (_, kind), seconds in [*self._cpu.items()]:
            total[kind] = total.get(kind, 0.0) + seconds
        return total

    def peak(self, kind: str) -> float:
        """The most MiB that one process of a kind had, on average over the kind, at any time."""
        return max((mib / number for _, mib, number in self.mib.get(kind, []) if number), default=0.0)

    def _run(self) -> None:
        while not self._stop.wait(self.every):
            self._sample()

    def _sample(self) -> None:
        seconds = time.monotonic() - self._began
        now: dict[str, list[float]] = {}
        for pid in descendants(self.pid):
            with suppress(OSError, ValueError, IndexError):
                kind = "driver" if pid == self.pid else kind_of(pid)
                self._cpu[pid, kind] = cpu_seconds(pid) - sum(
                    cpu for (other, before), cpu in self._cpu.items() if other == pid and before != kind
                )
                now.setdefault(kind, []).append(private_mib(pid))
        for kind, sizes in now.items():
            self.mib.setdefault(kind, []).append((seconds, sum(sizes), len(sizes)))


def kind_of(pid: int) -> str:
    """Name the kind of a job's process."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return next((kind for mark, kind in KINDS.items() if command.startswith(mark) or mark in command), "other")


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    below: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                below.setdefault(int(_stat(int(name))[1]), []).append(int(name))
    found = [pid]
    for parent in found:
        found += below.get(parent, [])
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS


def private_mib(pid: int) -> float:
    """MiB that a process shares with none."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    anonymous = (int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    return sum(anonymous) / 1024  # a zombie has none


def _stat(pid: int) -> list[Any]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
