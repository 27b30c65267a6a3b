"""Run a command and print the peak memory of it and all its processes.

    python benchmarks/lib/peak_memory.py m2f-batch segment INPUT OUTPUT --model M

Sampled every half second from /proc (Linux): PSS, in which memory that processes share is counted once.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


def descendants(root: int) -> list[int]:
    """Return the process and all processes below it. Ray's stay in the group of their driver's tree."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents.setdefault(int(fields[1]), []).append(int(status.parent.name))
    found, left = [], [root]
    while left:
        process = left.pop()
        found.append(process)
        left.extend(parents.get(process, []))
    return found


def pss_mib(process: int) -> tuple[float, str]:
    """Proportional set size in MiB, and the name of the process."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        name = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:
        return 0.0, ""
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024, name.rpartition("/")[2]


class Peak(NamedTuple):
    """The most memory of all processes together in MiB, that of the largest one and its name, seconds and exit code."""

    total_mib: float
    largest_mib: float
    largest: str
    seconds: float
    code: int


def peak_of(command: Sequence[str]) -> Peak:
    """Run a command to its end."""
    started = time.monotonic()
    peak, largest = 0.0, (0.0, "")
    with subprocess.Popen(command) as running:
        while running.poll() is None:
            sizes = [pss_mib(process) for process in descendants(running.pid)]
            peak, largest = max(peak, sum(size for size, _ in sizes)), max([largest, *sizes])
            time.sleep(0.5)
    return Peak(peak, *largest, time.monotonic() - started, running.returncode)


def main() -> int:
    """Run, sample and report. Exits with the command's own code."""
    peak = peak_of(sys.argv[1:])
    print(
        f"{peak.seconds:.0f} s; peak of all processes {peak.total_mib:.0f} MiB, "
        f"of one {peak.largest_mib:.0f} MiB ({peak.largest})"
    )
    return peak.code


if __name__ == "__main__":
    sys.exit(main())
