"""Counts the images that are fetched again after tasks, replicas and nodes of a run were killed.

    python -m benchmarks.scale.kills [--quick] [--images N] [--before CHECKOUT] [--units N]

Fetching, decoding and the model are stubs, on a cluster of four nodes of two CPUs each beside a head that does no work.
Each fetch is noted by the stub itself, before the unit is made, so that one which a kill interrupts counts as a fetch
of all its images. A run is killed at fixed shares of its images; the schedule is the same for each. ``--before`` is
another checkout with the same folders. Blocks of input hold ``--units`` in both, as many as those of 10^7 images do.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.lib.processes import Watch, descendants
from benchmarks.lib.stubs import SIZE_HW, Load, check, one_view, uris
from benchmarks.lib.timing import PROJECT, parser, publish, say, table

NODES, CPUS = 4, 2
EVENTS = ("task", "task", "replica", "task", "node", "task", "replica", "task", "node", "task", "task", "replica")
MODEL = PROJECT / "m2f_batch" / "demo" / "model"
PER_UNIT = 128  # images: what is measured is counted in units
CONTENT_HW = (20, 20)  # a unit is an object of Ray's store, which dies with its node, and not a message to the driver
LONGEST_SECONDS = 3600
NOTE = """*again* are the images that were fetched more than once, and *units each* how many units that is for each
process that was killed: a fetch task or a replica, alone or with its node. Nodes that die are not replaced. *CPU* is
milliseconds per unit, of the driver and of all processes. Rows are those of an undisturbed run: each image once, its
segment that of the stub."""


@dataclass(frozen=True)
class Fetch:
    """Stands in for fetching and decoding: notes the unit in a file of its process, and lasts ``seconds``."""

    folder: str
    seconds: float = 0.05

    def __call__(self, table: pa.Table, **_: Any) -> pa.Table:
        """The unit with a few black pixels for each of its images."""
        from m2f_batch.flow.unit.stages import Spent, prepare_unit_by
        from m2f_batch.vision.pixels.prepared import Prepared

        def pixels(refs: list[Any]) -> Iterator[Prepared]:
            for _ in refs:
                yield one_view(np.zeros((*CONTENT_HW, 3), np.uint8), SIZE_HW)

        with open(Path(self.folder) / str(os.getpid()), "ab", buffering=0) as notes:
            notes.write(f"{table['unit'][0].as_py()} {len(table['images'][0])}\n".encode())
        time.sleep(self.seconds)
        return prepare_unit_by(table, pixels, Spent())


# ---- in a process of its own: the driver and its cluster


def child(manifest: str, output: str, options: Mapping[str, Any]) -> NoReturn:
    """Run the job on a cluster that ends with this process."""
    import ray
    from ray.cluster_utils import Cluster

    from m2f_batch.config.segment import SegmentConfig
    from m2f_batch.flow import job
    from m2f_batch.flow.workers import Steps
    from m2f_batch.messages.events import Events, print_line
    from m2f_batch.ray_session.bytecode import kept_bytecode

    vars(_module_of_blocks())["MAX_BLOCKS"] = options["blocks"]
    with kept_bytecode():
        store = {"object_store_memory": 200 << 20}
        cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, **store})
        for _ in range(NODES):
            cluster.add_node(num_cpus=CPUS, **store)
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        sections: dict[str, Any] = {
            "input": {"uri": manifest},
            "output": {"uri": output, "images_per_file": 4 * PER_UNIT},
            "model": {"uri": str(MODEL), "task": "instance"},
            "compute": {"device": "cpu", "threads_per_actor": 1, "actors": 2},
            "run": {"images_per_unit": PER_UNIT},
        }
        steps = Steps(prepare=Fetch(options["notes"]), load=Load(options["seconds"]), check=check)
        config = SegmentConfig.model_validate(sections)
        outcome = job.segment(config, events=Events(show=print_line), steps=steps)
        ray.shutdown()
        cluster.shutdown()
        sys.stdout.flush()
        os._exit(outcome.exit_code)  # what Ray does at a process's end fails where nodes were killed


def _module_of_blocks() -> Any:
    """Return the module that sets the number of blocks, here and in older checkouts."""
    with suppress(ImportError):
        from m2f_batch.flow.unit import pieces

        return pieces
    from m2f_batch.flow import pipeline

    return pipeline


# ---- one run, from outside


def run(count: int, scratch: Path, tree: Path, events: Sequence[str] = EVENTS, **options: Any) -> dict[str, Any]:
    """One run over ``count`` images that is killed by ``events``: what was fetched, killed and used."""
    manifest, output, notes = scratch / "in.parquet", scratch / "out", scratch / "notes"
    notes.mkdir(parents=True)
    pq.write_table(pa.table({"uri": pa.array(uris(count))}), manifest)
    given = {"notes": str(notes), **options}
    command = [sys.executable, __file__, "--child", str(manifest), str(output), json.dumps(given)]
    killed: list[tuple[str, int]] = []
    with _at(tree, scratch) as environment, (scratch / "log").open("wb") as log:
        began = time.time()
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=scratch)
        try:
            with Watch(process.pid, every=2.0) as watch:
                waiting = list(events)
                while process.poll() is None:
                    time.sleep(0.1)
                    due = (len(killed) + 1) / (len(events) + 1) * count
                    if waiting and len(_fetched(notes)) * PER_UNIT >= due:
                        dead = _kill(waiting[0], process.pid)
                        if dead:
                            killed.append((waiting.pop(0), dead))
                    assert time.time() - began < LONGEST_SECONDS
        finally:
            for pid in descendants(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0, f"exit code {process.returncode}: {(scratch / 'log').read_text()[-3000:]}"
    assert not waiting, f"not killed: {waiting}"
    _check(output, count)
    fetched, cpu = _fetched(notes), watch.cpu()
    again = sum(times - 1 for times in fetched.values())
    return {
        "seconds": time.time() - began,
        "kills": Counter(kind for kind, _ in killed),
        "processes": sum(dead for _, dead in killed),
        "units": len(fetched),
        "again": again,
        "cpu_driver": 1000 * cpu["driver"] / len(fetched),
        "cpu_all": 1000 * sum(cpu.values()) / len(fetched),
    }


@contextmanager
def _at(tree: Path, scratch: Path) -> Iterator[dict[str, str]]:
    """The environment in which ``m2f_batch`` is that of a checkout, and ``benchmarks`` ours."""
    (scratch / "ours").mkdir()
    (scratch / "ours" / "benchmarks").symlink_to(PROJECT / "benchmarks")
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as ray:  # sockets' paths are at most 107 long
        yield {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(scratch / "ours"), str(tree)]),
            "RAY_TMPDIR": ray,
            "OMP_WAIT_POLICY": "PASSIVE",
            "RAY_enable_worker_prestart": "0",
            "RAY_worker_niceness": "0",  # or what else runs here takes all the time
            "RAY_BACKEND_LOG_LEVEL": "fatal",
            "RAY_raylet_start_wait_time_s": "600",
        }


def _fetched(notes: Path) -> Counter[str]:
    """Count how often each unit was begun to be fetched."""
    lines = [line for file in notes.iterdir() for line in file.read_text().splitlines()]
    return Counter(line.split()[0] for line in lines)


def _kill(kind: str, driver: int) -> int:
    """Kill one such process below the driver, or a node. Returns how many tasks and replicas died, 0 for none yet."""
    titles = {pid: title for pid in descendants(driver) if (title := _title(pid))}
    at_work = [pid for pid, title in titles.items() if _is_replica(title) or _is_fetch(title)]
    if kind == "node":
        raylets = [pid for pid, title in titles.items() if "/raylet/raylet" in title.split(" ")[0]]
        below = {raylet: descendants(raylet) for raylet in raylets}
        busy = max(below.values(), key=lambda pids: len({*pids} & {*at_work}), default=[])
        victims = busy if {*busy} & {*at_work} else []
    else:
        wanted = _is_fetch if kind == "task" else _is_replica
        victims = [pid for pid in at_work if wanted(titles[pid])][:1]
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len({*victims} & {*at_work})


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def _is_fetch(title: str) -> bool:
    return title.startswith("ray::MapBatches(") and "(apart)" not in title


def _is_replica(title: str) -> bool:
    return title.startswith("ray::MapWorker")


def _check(output: Path, count: int) -> None:
    """The rows are those of a run that nothing happened to."""
    rows = pq.read_table(output / "annotations", columns=["uri", "status", "segments"])
    assert sorted(rows["uri"].to_pylist()) == sorted(uris(count))
    assert {*rows["status"].to_pylist()} == {"ok"}
    assert {segment["counts"] for (segment,) in rows["segments"].to_pylist()} == {"52203"}
    info = json.loads((output / "run.json").read_text())["images"]
    assert (info["ok"], info["error"], info["remaining"]) == (count, 0, 0)


def line(name: str, got: Mapping[str, Any]) -> dict[str, str]:
    """One line of the table."""
    return {
        "": name,
        "killed": ", ".join(f"{number} {kind}s" for kind, number in got["kills"].items()),
        "processes": str(got["processes"]),
        "units": f"{got['units']:,}",
        "again, images": f"{got['again'] * PER_UNIT:,}",
        "units each": f"{got['again'] / got['processes']:.2f}",
        "CPU, driver": f"{got['cpu_driver']:.1f}",
        "CPU, all": f"{got['cpu_all']:.1f}",
        "s": f"{got['seconds']:.0f}",
    }


def main() -> int:
    """Measure, print and write the table."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=100_000)
    options.add_argument("--before", type=Path, help="a checkout to compare with")
    options.add_argument("--units", type=int, default=79, help="of a block of input, as with 10^7 images")
    options.add_argument("--seconds", type=float, default=0.05, help="of a replica for 16 images")
    options.add_argument("--child", nargs=3, metavar=("MANIFEST", "OUTPUT", "JSON"), help="one run, for us")
    chosen = options.parse_args()
    if chosen.child:
        manifest, output, given = chosen.child
        child(manifest, output, json.loads(given))
    count, lines = 20_000 if chosen.quick else chosen.images, []
    trees = {"now": PROJECT, "before": chosen.before}
    for name, tree in trees.items():
        if tree is not None:
            with tempfile.TemporaryDirectory(prefix="m2f-") as scratch:
                blocks = max(1, count // PER_UNIT // chosen.units)
                got = run(count, Path(scratch), tree.resolve(), blocks=blocks, seconds=chosen.seconds)
            lines.append(line(name, got))
            say(str(lines[-1]))
    publish("kills", "Kills", [table(lines), NOTE], threads=1, quick=chosen.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
