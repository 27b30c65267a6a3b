"""Peak memory: of post-processing alone at 4K in processes of their own, and of the whole job with all its processes.

    python -m benchmarks.parts.memory [--quick]

Growth is the peak resident set while one image is post-processed, over what imports, warm code and inputs had taken.
"""

import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.lib.peak_memory import peak_of
from benchmarks.lib.photos import write_photographs
from benchmarks.lib.timing import PROJECT, parser, publish, say, table
from m2f_batch.config.segment import Task

WAYS = ("ours", "dense", "transformers")
KEPT = {"instance": (40,), "panoptic": (40,), "semantic": (40,)}
FULL, SMALL = (2160, 3840), (480, 640)
NOTE = """MiB of growth of the resident set (VmHWM of Linux, reset before the call). *dense* is the contract's
definition at full size, *transformers* its own post-processing and pycocotools, as in the table on speed."""
JOB_NOTE = "Sum of the proportional set sizes of the driver, Ray and all workers, sampled twice a second."


def growth_mib(task: Task, way: str, output: tuple[int, int], kept: int) -> float:
    """In this process: the peak while the work is done, over what there was before."""
    from benchmarks.lib.peers import DENSE, shipped
    from benchmarks.lib.work import SQUARE, make_work
    from benchmarks.parts.postprocess import ours

    torch.set_num_threads(1)
    function = {"ours": ours, "dense": DENSE[task], "transformers": shipped}[way]
    function(make_work(task, (120, 160), 5, size=SQUARE))
    work = make_work(task, output, kept)
    ctypes.CDLL(None).malloc_trim(0)  # what the inputs' making left behind must not hide what is asked next
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    before = _status_mib("VmRSS")
    assert function(work), "nothing was found"
    return _status_mib("VmHWM") - before


def _status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))


def measure(task: Task, output: tuple[int, int], kept: int) -> dict[str, Any]:
    """One line of the table: each way in a fresh process."""
    grown = {}
    for way in WAYS:
        child = [sys.executable, "-m", "benchmarks.parts.memory", "--child", task, way, *map(str, output), str(kept)]
        done = subprocess.run(child, capture_output=True, text=True, check=True, cwd=PROJECT)
        grown[way] = float(done.stdout.split()[-1])
    line = {"task": task, "output": f"{output[0]}x{output[1]}", "kept": kept}
    line |= {f"{way}, MiB": f"{size:,.0f}" for way, size in grown.items()}
    line |= {f"{way} / ours": f"{grown[way] / grown['ours']:.3g}" for way in WAYS[1:]}
    say(", ".join(f"{name} {value}" for name, value in line.items()))
    return line


def whole_job(images: int) -> list[dict[str, Any]]:
    """The command on photographs with the bundled model, in two tasks."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="m2f-bench-") as scratch:
        folder = write_photographs(Path(scratch) / "photos", images)
        for task in ("instance", "panoptic"):
            command = [str(Path(sys.executable).with_name("m2f-batch")), "segment", str(folder), f"{scratch}/{task}"]
            peak = peak_of([*command, "--model", str(PROJECT / "m2f_batch" / "demo" / "model"), "--task", task])
            assert peak.code == 0, f"exit code {peak.code}"
            lines.append(
                {
                    "task": task,
                    "images": images,
                    "all processes, MiB": f"{peak.total_mib:,.0f}",
                    "largest process": f"{peak.largest_mib:,.0f} MiB ({peak.largest})",
                }
            )
    return lines


def main() -> int:
    """Measure, print and write the tables."""
    options = parser(__doc__)
    options.add_argument("--child", nargs=5, metavar=("TASK", "WAY", "H", "W", "KEPT"), help="one measurement, for us")
    chosen = options.parse_args()
    if chosen.child:
        task, way, height, width, kept = chosen.child
        print(growth_mib(task, way, (int(height), int(width)), int(kept)))
        return 0
    output = SMALL if chosen.quick else FULL
    cases = [(task, kept) for task in get_args(Task) for kept in ((20,) if chosen.quick else KEPT[task])]
    parts = [table([measure(task, output, kept) for task, kept in cases]), NOTE]
    parts += ["## The whole job", table(whole_job(8 if chosen.quick else 100)), JOB_NOTE]
    publish("memory", "Peak memory", parts, threads=1, quick=chosen.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
