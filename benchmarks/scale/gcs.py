"""Memory of Ray's GCS by units of work: it keeps what became of tasks, of the newest so many.

    python -m benchmarks.scale.gcs [--quick] [--units 8000] [--kept 100000 10000]

The job itself around stubs, with units of four images, one run for each bound on the tasks that the GCS remembers
(``RAY_task_events_max_num_task_in_gcs``; 100,000 is Ray's own).
"""

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.lib.timing import parser, publish, say, table
from benchmarks.scale.scale import run

IMAGES = 4  # of a unit: what the GCS keeps does not depend on them
BOUND = "RAY_task_events_max_num_task_in_gcs"
NOTE = """Private MiB of the GCS when so many units were committed, and in brackets the growth in KB per unit since the
column before. A unit is a task that prepares it, a call of the actor that labels it, and calls of the gate."""


def curve(got: Mapping[str, Any], marks: list[int]) -> list[float]:
    """The GCS's MiB when so many units were committed."""
    series = [(got["began"] + seconds, mib) for seconds, mib, _ in got["watch"].mib["gcs"]]
    moments = [got["units"][min(mark, len(got["units"])) - 1][0] for mark in marks]
    return [next((mib for when, mib in series if when >= moment), series[-1][1]) for moment in moments]


def measure(units: int, kept: int) -> dict[str, Any]:
    """One line of the table."""
    os.environ[BOUND] = str(kept)
    marks = [units * eighth // 8 for eighth in range(1, 9)]
    with tempfile.TemporaryDirectory(prefix="m2f-") as scratch:
        got = run(units * IMAGES, Path(scratch), run={"images_per_unit": IMAGES})
    sizes = curve(got, marks)
    shown = {"tasks kept": f"{kept:,}"}
    for at, (mark, mib) in enumerate(zip(marks, sizes, strict=True)):
        more = f" ({(mib - sizes[at - 1]) * 1024 / (mark - marks[at - 1]):.1f})" if at else ""
        shown[f"{mark:,} units"] = f"{mib:.0f}{more}"
    say(", ".join(f"{name} {value}" for name, value in shown.items()))
    return shown


def main() -> int:
    """Measure, print and write the table."""
    options = parser(__doc__)
    options.add_argument("--units", type=int, default=8000)
    options.add_argument("--kept", type=int, nargs="+", default=[100_000, 10_000])
    chosen = options.parse_args()
    units = 400 if chosen.quick else chosen.units
    lines = [measure(units, kept) for kept in chosen.kept]
    publish("gcs", "Memory of Ray's GCS", [table(lines), NOTE], threads=1, quick=chosen.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
