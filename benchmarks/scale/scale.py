"""The whole job around a model that costs nothing, from 10^3 to 10^6 images: seconds, CPU, memory, files.

    python -m benchmarks.scale.scale [--quick] [--counts 1000 10000]

Decoding and the model are stubs (``benchmarks.lib.stubs``): no pixels, one segment per image. What is left is listing,
planning, Ray, the rows, committing, joining and verifying. Each run is a process of its own, with a Ray of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.lib.inside import time_calls, watch_store
from benchmarks.lib.processes import Watch
from benchmarks.lib.stubs import steps, uris
from benchmarks.lib.timing import PROJECT, parser, publish, say, table
from benchmarks.scale import planning

COUNTS, QUICK_COUNTS = (1_000, 10_000, 100_000, 1_000_000), (1_000,)
MODEL = PROJECT / "m2f_batch" / "demo" / "model"
LEAST_SAMPLES = 20  # in steady state, two a second
COMMAND = [sys.executable, "-m", "benchmarks.scale.scale"]
NOTE = """*first* and *all* are seconds from the command to the first committed unit and to the exit; *begin* is from
the end of listing to the opened OUTPUT, with Ray's start. Steady is between a tenth and nine tenths of the units:
images/s by the clock, CPU in milliseconds per unit of 32 images, of the driver and of all processes. Where a machine is
shared, CPU is steadier than the clock. Memory is what processes share with none, in MiB, the most at any time; of
workers and actors that of one; the driver's growth is that in steady state."""


# ---- in a process of its own


def child(manifest: str, output: str, options: Mapping[str, Any]) -> int:
    """Run the job with stubs. Its times go to ``options["times"]`` as JSON (epoch seconds)."""
    from m2f_batch.config.segment import SegmentConfig
    from m2f_batch.flow import engine, job
    from m2f_batch.flow.attempt import finish
    from m2f_batch.messages.events import Events, print_line

    times: dict[str, Any] = {"units": []}
    time_calls(job, "list_input", times, "listing")
    time_calls(engine, "build", times, "build")
    time_calls(finish, "verify_reports", times, "verify")
    threading.Thread(target=watch_store, args=(times,), daemon=True).start()
    stream = engine.results_of

    def noted(dataset: Any) -> Any:
        for unit in stream(dataset):
            times["units"].append((time.time(), unit["ok"]))
            yield unit

    vars(engine)["results_of"] = noted
    config = SegmentConfig.model_validate(
        {
            "input": {"uri": manifest},
            "output": {"uri": output},
            "model": {"uri": str(MODEL), "task": "instance"},
            "compute": {"device": "cpu", "threads_per_actor": 1, **options.get("compute", {})},
            "run": options.get("run", {}),
        }
    )
    with _ray_of(options.get("cpus")):
        outcome = job.segment(config, events=Events(show=print_line), steps=steps(**options.get("stubs", {})))
    times |= {"ended": time.time(), "torch": "torch" in sys.modules}
    Path(options["times"]).write_text(json.dumps(times))
    return outcome.exit_code


@contextmanager
def _ray_of(cpus: int | None) -> Iterator[None]:
    """Start a Ray that believes to have so many CPUs. None: the job starts its own."""
    if cpus is not None:
        import ray

        from m2f_batch.ray_session.bytecode import kept_bytecode

        # a node that simulates many: as a whole it has more workers than it thinks it should, and would end those that
        # wait, and start others, all the time
        simulated = {"kill_idle_workers_interval_ms": 0}
        options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        with kept_bytecode():
            ray.init("local", num_cpus=cpus, _system_config=simulated, **options)
    yield


# ---- one run, from outside


def run(count: int, scratch: Path, **options: Any) -> dict[str, Any]:
    """Times, memory, CPU and files of one run over ``count`` images."""
    manifest, output = scratch / f"{count}.parquet", scratch / f"out-{count}"
    pq.write_table(pa.table({"uri": pa.array(uris(count))}), manifest)
    options |= {"times": str(scratch / f"times-{count}.json")}
    command = [*COMMAND, "--child", str(manifest), str(output), json.dumps(options)]
    began = time.time()
    opened = None
    marks: list[tuple[float, dict[str, float]]] = []
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, env=_environment(scratch))
    try:
        with Watch(process.pid) as watch:
            while process.poll() is None:
                time.sleep(0.5)
                marks.append((time.time(), watch.cpu()))
                if opened is None and (output / "run.json").exists():
                    opened = time.time()
    finally:
        process.kill()
    assert process.wait() == 0, f"{count} images: exit code {process.returncode}"
    times = json.loads(Path(options["times"]).read_text())
    sizes = [file.stat().st_size for file in (output / "annotations").iterdir()]
    info = json.loads((output / "run.json").read_text())
    assert info["images"]["ok"] == count, info["images"]
    return {"count": count, "began": began, "opened": opened, "marks": marks, "watch": watch, "sizes": sizes, **times}


def _environment(scratch: Path) -> dict[str, str]:
    return {**os.environ, "RAY_TMPDIR": str(scratch), "OMP_WAIT_POLICY": "PASSIVE"}


def steady(got: Mapping[str, Any]) -> dict[str, float]:
    """Between a tenth and nine tenths of the units: images/s, CPU ms per unit, the driver's growth in MiB."""
    at = np.array([when for when, _ in got["units"]])
    images = np.cumsum([ok for _, ok in got["units"]])
    first, last = len(at) // 10, len(at) * 9 // 10 - 1
    begin, end = at[first], at[last]
    units, done = last - first, images[last] - images[first]
    before, after = (_cpu_at(got["marks"], moment) for moment in (begin, end))
    used = {kind: seconds - before.get(kind, 0.0) for kind, seconds in after.items()}
    series = [(got["began"] + seconds, mib) for seconds, mib, _ in got["watch"].mib["driver"]]
    inside = [(when, mib) for when, mib in series if begin <= when <= end]
    if len(inside) < LEAST_SAMPLES:
        return {"rate": done / (end - begin), "driver_ms": np.nan, "all_ms": np.nan, "growth": np.nan}
    slope = np.polyfit([when for when, _ in inside], [mib for _, mib in inside], 1)[0]
    return {
        "rate": done / (end - begin),
        "driver_ms": 1000 * used["driver"] / units,
        "all_ms": 1000 * sum(used.values()) / units,
        "growth": slope * (end - begin) / done * 100_000,
    }


def _cpu_at(marks: list[tuple[float, dict[str, float]]], moment: float) -> dict[str, float]:
    later = [cpu for when, cpu in marks if when >= moment]
    return later[0] if later else marks[-1][1]


def line(count: int, scratch: Path) -> dict[str, Any]:
    """One line of the table."""
    got = run(count, scratch)
    watch, flat = got["watch"], steady(got)
    assert got["store_bytes"] is not None, "Ray's object store was never read"
    first = got["units"][0][0]
    seconds = {name: got[name][1] - got[name][0] for name in ("listing", "verify")}
    shown = {
        "images": f"{count:,}",
        "first, s": f"{first - got['began']:.1f}",
        "all, s": f"{got['ended'] - got['began']:.1f}",
        "listing": f"{seconds['listing']:.2f}",
        "begin": f"{got['opened'] - got['listing'][1]:.1f}",
        "verify": f"{seconds['verify']:.1f}",
        "steady, images/s": f"{flat['rate']:.0f}",
        "CPU, driver": _shown(flat["driver_ms"], ".1f"),
        "CPU, all": _shown(flat["all_ms"], ".1f"),
        "driver, MiB": f"{watch.peak('driver'):.0f}",
        "per 100,000 images": _shown(flat["growth"], "+.1f"),
        **{f"{kind}, MiB": f"{watch.peak(kind):.0f}" for kind in ("gate", "workers", "actors", "gcs", "raylet")},
        "object store, MiB": f"{got['store_bytes'] / 2**20:.1f}",
        "files": f"{len(got['sizes']):,}",
        "KiB each": f"{np.median(got['sizes']) / 1024:.0f}",
    }
    assert not got["torch"], "the driver loaded torch"
    say(", ".join(f"{name} {value}" for name, value in shown.items()))
    return shown


def _shown(value: float, form: str) -> str:
    return "too short" if np.isnan(value) else format(value, form)


def main() -> int:
    """Measure, print and write the tables."""
    options = parser(__doc__)
    options.add_argument("--counts", type=int, nargs="+", help="images of each run")
    options.add_argument("--child", nargs=3, metavar=("MANIFEST", "OUTPUT", "JSON"), help="one run, for us")
    chosen = options.parse_args()
    if chosen.child:
        manifest, output, given = chosen.child
        return child(manifest, output, json.loads(given))
    with tempfile.TemporaryDirectory(prefix="m2f-") as scratch:
        lines = [line(count, Path(scratch)) for count in chosen.counts or (QUICK_COUNTS if chosen.quick else COUNTS)]
    publish("scale", "Scale", [table(lines), NOTE], threads=1, quick=chosen.quick)
    if not chosen.counts:
        planning.measure(quick=chosen.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
