"""A run on a cluster that scales from nothing: how long its replicas took to come, and what ``busy`` says.

    python -m benchmarks.scale.growing [--replicas 8] [--seconds 60]

The job itself, around stubs that sleep for the model and burn CPU for decoding, with ``compute.actors=[1, 8]`` on GPUs
that are not there. Ray's own autoscaler starts each node, on this machine. Beside the run a thread of this process
asks Ray which nodes there are, and the stubs write down what they did: what ``busy`` should say is computed from those
alone. Nodes that come while the run is proved are counted too.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.lib.stubs import BATCH, SIZE_HW, Load, check, one_view, uris
from benchmarks.lib.timing import parser, publish, say, table
from benchmarks.scale.growing_cluster import GrowingCluster
from m2f_batch.flow.unit.actor import ActorSettings
from m2f_batch.flow.unit.stages import Spent, prepare_unit_by
from m2f_batch.flow.workers import Steps
from m2f_batch.messages.events import Events, print_line
from m2f_batch.records import ImageRef
from m2f_batch.vision.pixels.prepared import Prepared

UNIT = 32  # images
DECODE_SECONDS = 0.004  # of CPU for each image
FORWARD_SECONDS = 1.0  # of sleep for each batch of 16
GPU, CPU = {"CPU": 4, "GPU": 1}, {"CPU": 4}
NOTE = """*ramp*: from the first replica that was ready to the last; nodes start one after the other here. *busy of
decode* and *of forward* are what run.json says. *burned* is the CPU time that decoding took, by the kernel's clock of
its threads, over the CPUs of the nodes that were there since the first batch, as Ray listed them twice a second, less
one for each replica that was ready. *slept* is what the stubs of the model slept, over the time since the first batch
of each. *nodes for the proof* came after the last unit."""


@dataclass(frozen=True)
class Prepare:
    """Burns ``DECODE_SECONDS`` of CPU for each image, and writes down (began, ended, CPU seconds) of each unit."""

    folder: str

    def __call__(self, table: pa.Table, **_: Any) -> pa.Table:
        """Every image of one unit as one black pixel."""
        spent, began, before = Spent(), time.time(), time.thread_time()

        def pixels(refs: list[ImageRef]) -> Iterator[Prepared]:
            for _ in refs:
                until = time.thread_time() + DECODE_SECONDS
                while time.thread_time() < until:
                    pass
                yield one_view(np.zeros((1, 1, 3), np.uint8), SIZE_HW)
            spent.seconds["decode"] += time.thread_time() - before

        done = prepare_unit_by(table, pixels, spent)
        with (Path(self.folder) / f"decode-{os.getpid()}").open("a") as log:
            log.write(json.dumps([began, time.time(), time.thread_time() - before]) + "\n")
        return done


@dataclass(frozen=True)
class Ready:
    """Loads the stub of a model, and writes down when."""

    folder: str

    def __call__(self, settings: ActorSettings) -> Any:
        """A segmenter of its own for each replica."""
        segmenter = Load(FORWARD_SECONDS, self.folder)(settings)
        (Path(self.folder) / f"ready-{os.getpid()}").write_text(str(time.time()))
        return segmenter


def drive(address: str, folder: Path, replicas: int, images: int) -> int:
    """The run, in a process of its own."""
    from m2f_batch.config.segment import SegmentConfig
    from m2f_batch.flow import job

    pq.write_table(pa.table({"uri": [*uris(images)]}), folder / "in.parquet")
    config = SegmentConfig.model_validate(
        {
            "input": {"uri": str(folder / "in.parquet")},
            "output": {"uri": str(folder / "run"), "images_per_file": UNIT},
            "model": {"uri": str(Path(job.__file__).parents[1] / "demo" / "model"), "task": "panoptic"},
            "compute": {"address": address, "device": "cuda", "actors": [1, replicas]},
            "run": {"images_per_unit": UNIT},
        }
    )
    (folder / "logs").mkdir()
    steps = Steps(Prepare(str(folder / "logs")), Ready(str(folder / "logs")), check)
    return job.segment(config, events=Events(show=print_line), steps=steps).exit_code


def watch(address: str, stop: threading.Event, seen: list[tuple[float, list[dict[str, float]]]]) -> None:
    """Note which nodes there are, twice a second."""
    import ray

    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    while not stop.wait(0.5):
        seen.append((time.time(), [node["Resources"] for node in ray.nodes() if node["Alive"]]))
    ray.shutdown()


def measure(replicas: int, seconds: int, cpu_nodes: int) -> dict[str, Any]:
    """One run with work for so many seconds of all replicas."""
    stop, seen = threading.Event(), list[tuple[float, list[dict[str, float]]]]()
    images = replicas * seconds * BATCH // UNIT * UNIT
    with (
        tempfile.TemporaryDirectory(prefix="m2f-") as scratch,
        GrowingCluster({"gpu": (GPU, replicas), "cpu": (CPU, cpu_nodes)}) as cluster,
    ):
        folder, began = Path(scratch), time.time()
        looking = threading.Thread(target=watch, args=(cluster.address, stop, seen))
        looking.start()
        command = [
            sys.executable,
            "-m",
            "benchmarks.scale.growing",
            "--drive",
            cluster.address,
            str(folder),
            str(replicas),
        ]
        environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
        with (folder / "said").open("wb") as said:
            code = subprocess.call([*command, str(images)], stderr=said, stdout=said, env=environment, timeout=1500)
        ended = time.time()
        stop.set()
        looking.join()
        asked = [int(count) for count in re.findall(r"Adding (\d+) node\(s\) of type gpu", cluster.log())]
        assert code == 0, (folder / "said").read_text()[-3000:]
        info = json.loads((folder / "run" / "run.json").read_text())
        decoded = [json.loads(line) for file in (folder / "logs").glob("decode-*") for line in file.open()]
        ready = [float(file.read_text()) for file in (folder / "logs").glob("ready-*")]
        batches = [[json.loads(line) for line in [*file.open()][1:]] for file in (folder / "logs").glob("*.jsonl")]
        lines = [line.strip() for line in (folder / "said").read_text().splitlines()]
    batches = [own for own in batches if own]  # of replicas that have labeled something
    labeled = [batch for own in batches for batch in own]
    # a unit that was decoded before a replica was ready waited for it, and waiting is no stage
    first, last = min(batch[0] for batch in labeled), max(batch[1] for batch in labeled)
    burned = sum(unit[2] for unit in decoded)
    return {
        "replicas": len(ready),
        "GPU nodes asked for": asked,
        "first ready, s": min(ready) - began,
        "ramp, s": max(ready) - min(ready),
        "all, s": ended - began,
        "busy of decode": info["stages"]["decode"]["busy"],
        "burned": burned / place_seconds(seen, sorted(ready), first, last),
        "busy of forward": info["stages"]["forward"]["busy"],
        "slept": sum(b[1] - b[0] for b in labeled) / sum(last - own[0][0] for own in batches),
        "nodes for the proof": len(seen[-1][1]) - len(min(seen, key=lambda one: abs(one[0] - last))[1]),
        "says": [after for line, after in pairwise(lines) if line.startswith("busy")][-1],
    }


def place_seconds(
    seen: list[tuple[float, list[dict[str, float]]]], ready: list[float], first: float, last: float
) -> float:
    """CPU seconds from ``first`` to ``last`` of the nodes that were seen, without those of replicas that were ready.

    >>> place_seconds([(0, [{"CPU": 4}]), (1, [{"CPU": 4}, {"CPU": 4}]), (2, [])], [1.0], 0, 2)
    11.0
    """
    total = 0.0
    for (at, nodes), (then, _) in pairwise(seen):
        span = max(0.0, min(then, last) - max(at, first))
        total += span * sum(node.get("CPU", 0.0) for node in nodes)
    return total - sum(max(0.0, last - max(at, first)) for at in ready)


def main() -> int:
    """Measure, print and write the table."""
    if sys.argv[1:2] == ["--drive"]:
        return drive(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    options = parser(__doc__)
    options.add_argument("--replicas", type=int, default=8)
    options.add_argument("--cpu-nodes", type=int, default=2, help="the most that the autoscaler may start")
    options.add_argument("--seconds", type=int, default=60, help="of work for all replicas")
    chosen = options.parse_args()
    line = measure(2 if chosen.quick else chosen.replicas, 5 if chosen.quick else chosen.seconds, chosen.cpu_nodes)
    for name in ("busy of decode", "burned", "busy of forward", "slept"):
        line[name] = f"{line[name]:.1%}"
    line |= {name: f"{value:.0f}" for name, value in line.items() if name.endswith(", s")}
    say(", ".join(f"{name} {value}" for name, value in line.items()))
    publish("growing", "A cluster that grows", [table([line]), NOTE], threads=1, quick=chosen.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
