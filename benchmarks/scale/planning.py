"""Planning without images: a whole command up to its first unit, the joins of a plan, and ``clean``.

    python -m benchmarks.scale.planning [--runs 10000000] [--joins 70000000:25 23000000:100] [--cleans 1000000 3000000]

``make bench-scale`` ends with it. Each figure is taken in a process of its own. uris are made by Arrow and numpy, and
what is measured is ours.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.lib.inside import time_calls, watch_store
from benchmarks.lib.processes import Watch
from benchmarks.lib.timing import PROJECT, parser, publish, say, table

RUNS, JOINS, CLEANS = (10_000_000,), ("70000000:25", "23000000:100"), (1_000_000, 3_000_000)
MODEL = PROJECT / "m2f_batch" / "demo" / "model"
PARTS = ("command", "coordinator", "object store", "together")
FILE, UNIT = 4096, 32  # images
CHUNK = 1 << 20  # uris made at a time
CHANGED = 100  # one of so many images has changed in the next listing
LENGTH = 60  # characters of a uri
NOTE = """*command*: from its start to the first unit that is committed, with Ray, its coordinator and stubs for
decoding and the model. The listing is made by numpy, its versions
are as long as ETags. *again* is the same command after a
kill, over a listing in which one of 100 images has changed. Memory is what processes share with none (RssAnon), the
most at any time, and the most bytes in Ray's object store. *together* is the sum, at whatever times each was."""
JOINS_NOTE = """Seconds of each join, and the most memory of the process so far (ru_maxrss, MiB), with both listings
in it: the old one with its plan, and the new one, which has the same array of uris."""
CLEANS_NOTE = """CPU seconds of the coordinator for knowing which rows of which file go, where one of 100 images
has changed; no file is read."""
_T = TypeVar("_T")


def listing(count: int, length: int, version: int = 0, *, has_etags: bool = False) -> pa.Table:
    """Make a sorted listing of ``count`` uris of ``length`` characters. In ``version`` 1 one of CHANGED is another.

    Versions are texts of one character, or of the 32 of an ETag.
    """
    firsts = range(0, count, CHUNK)
    parts = [_chunk(first, min(CHUNK, count - first), length, version, has_etags) for first in firsts]
    return pa.concat_tables(parts)


def _chunk(first: int, count: int, length: int, version: int, has_etags: bool) -> pa.Table:
    numbers = np.arange(first, first + count, dtype=np.int64)
    news = np.where(numbers % CHANGED == 0, version, 0)
    ids = (numbers * 0x5851F42D4C957F2D + news) & 0x7FFFFFFFFFFFFFFF
    versions = pa.array(news).cast(pa.string())
    if has_etags:
        text = np.frombuffer(b"0123456789abcdef", np.uint8)[np.random.default_rng(first).integers(0, 16, (count, 32))]
        text[:, 0] = ord("0") + news
        versions = _texts(text)
    return pa.table({"image_id": ids, "uri": uris(numbers, length), "version": versions})


def _texts(letters: NDArray[np.uint8]) -> pa.Array:
    """The texts that the rows of uint8 [n, characters] are."""
    count, length = letters.shape
    offsets = np.arange(count + 1, dtype=np.int32) * length
    return pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(letters)])


def uris(numbers: NDArray[np.int64], length: int) -> pa.Array:
    """``/nowhere/xxx/000000123.jpg``: texts of ``length`` characters, in the order of their numbers."""
    text = np.frombuffer(b"/nowhere/".ljust(length - 14, b"x") + b"/000000000.jpg", np.uint8)
    data = np.tile(text, (len(numbers), 1))
    left = numbers.copy()
    for digit in range(1, 10):
        data[:, -4 - digit] = ord("0") + left % 10
        left //= 10
    return _texts(data)


# ---- in a process of its own


def joins(count: int, length: int) -> dict[str, Any]:
    """Measure seconds of each join and the peak memory after it (MiB). Its results are checked by counts."""
    from m2f_batch.runs.assignment import assigned_of
    from m2f_batch.runs.plan import new_plan, next_plan, pending

    got: dict[str, Any] = {"images": f"{count:,}", "characters": length}

    def step(name: str, act: Callable[[], _T]) -> _T:
        began = time.perf_counter()
        done = act()
        got[name] = f"{time.perf_counter() - began:.1f} s, {peak_mib():,}"
        print(name, got[name], file=sys.stderr, flush=True)
        return done

    plan = step("new_plan", partial(new_plan, step("listing", partial(listing, count, length)), "f", FILE, UNIT))
    assert len(step("pending", partial(pending, plan, ()))) == units_of(count)
    files = set(plan.files().dictionary.to_pylist())
    assert step("assigned_of", partial(assigned_of, plan.manifest())).listed == count
    new = step("next listing", partial(_listed_again, plan.table, length))
    change = step("next_plan", partial(next_plan, plan, new, files, np.zeros(0, np.int64), "f", FILE, UNIT))
    changed = -(-count // CHANGED)
    assert (change.new, change.changed, change.vanished) == (0, changed, 0)
    assert len(step("pending, next", partial(pending, change.plan, files))) == units_of(changed)
    return got


def _listed_again(table: pa.Table, length: int) -> pa.Table:
    """Make the next listing, which shares the text of its uris with the old one, so that both fit on a machine."""
    firsts = range(0, table.num_rows, CHUNK)
    parts = (
        _chunk(first, min(CHUNK, table.num_rows - first), length, 1, False).drop_columns(["uri"]) for first in firsts
    )
    return pa.concat_tables(parts).add_column(1, "uri", table["uri"])


def units_of(count: int) -> int:
    """Count the units of so many images."""
    return sum(-(-min(FILE, count - first) // UNIT) for first in range(0, count, FILE))


def peak_mib() -> int:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def cleans(count: int) -> dict[str, Any]:
    """CPU seconds of ``clean`` of changes in every file, where files themselves cost nothing."""
    from m2f_batch.runs.directory import open_directory
    from m2f_batch.runs.plan import new_plan, next_plan
    from m2f_batch.runs.writing import repair
    from m2f_batch.storage.store import Entry

    plan = new_plan(listing(count, LENGTH), "f", FILE, UNIT)
    files = set(plan.files().dictionary.to_pylist())
    change = next_plan(plan, listing(count, LENGTH, 1), files, np.zeros(0, np.int64), "f", FILE, UNIT)
    assert len(change.dirty) == len(files)
    seen: list[Any] = []
    vars(repair)["_keep_rows"] = lambda *arguments: seen.append(arguments)
    began = time.process_time()
    repair.clean(open_directory("/nowhere"), change.plan, change.dirty, {name: Entry(name, 1, "v") for name in files})
    seconds = time.process_time() - began
    assert len(seen) == len(files)
    return {"images": f"{count:,}", "files": len(files), "CPU, s": f"{seconds:.2f}"}


def command(count: str, output: str, night: str) -> None:
    """Run a job over stubs that dies with its first unit. Returns the seconds that each part took."""
    import ray

    from benchmarks.lib.stubs import steps
    from m2f_batch.config.segment import SegmentConfig
    from m2f_batch.flow import engine, job
    from m2f_batch.flow.attempt import output_state
    from m2f_batch.inputs.listed import Listing
    from m2f_batch.messages.events import Events, print_line

    listed = Listing(listing(int(count), LENGTH, int(night), has_etags=True), 0, 0)
    vars(job)["list_input"] = lambda *_, **__: listed
    times: dict[str, Any] = {}
    for place, name in ((output_state, "work_of"), (engine, "build")):
        time_calls(place, name, times, name)
    threading.Thread(target=watch_store, args=(times,), daemon=True).start()
    stream, began = engine.results_of, time.time()

    def noted(dataset: Any) -> Any:
        for unit in stream(dataset):
            spent = {name: round(times[name][1] - times[name][0], 1) for name in ("work_of", "build")}
            print(json.dumps(spent | {"all": round(time.time() - began, 1), "store_bytes": times["store_bytes"]}))
            sys.stdout.flush()
            ray.shutdown()
            os._exit(0)
            yield unit

    vars(engine)["results_of"] = noted
    config = {"input": {"uri": "/nowhere"}, "output": {"uri": output}, "model": {"uri": str(MODEL), "task": "instance"}}
    compute = {"device": "cpu", "threads_per_actor": 1, "actors": 1}
    settings = SegmentConfig.model_validate({**config, "compute": compute})
    job.segment(settings, events=Events(show=print_line), steps=steps())


# ---- from outside


def measured(*what: str) -> dict[str, Any]:
    """Run a child. Returns its answer, and the memory of it and of the processes that it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scale.planning", "--child", *what],
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        env={**os.environ, "RAY_TMPDIR": tempfile.gettempdir()},
    )
    with Watch(process.pid) as watch:
        out = process.communicate()[0]
    assert process.returncode == 0, f"{what}: exit code {process.returncode}"
    got = dict(json.loads(out.splitlines()[-1]))
    say(json.dumps(got))
    return got | {"watch": watch}


def runs(count: int, scratch: Path) -> list[dict[str, Any]]:
    """Two commands over so many images."""
    lines = []
    for night, name in enumerate(("command", "again")):
        got = measured("command", str(count), f"{scratch}/run-{count}", str(night))
        assert got["store_bytes"] is not None, "Ray's object store was never read"
        sizes = [got["watch"].peak("driver"), got["watch"].peak("gate"), got["store_bytes"] / 2**20]
        lines.append(
            {
                "run": name,
                "images": f"{count:,}",
                **{f"{part}, s": got[part] for part in ("work_of", "build", "all")},
                **{f"{part}, MiB": f"{size:,.0f}" for part, size in zip(PARTS, [*sizes, sum(sizes)], strict=True)},
            }
        )
        say(json.dumps(lines[-1]))
    return lines


def main() -> int:
    """Measure, print and write the tables."""
    options = parser(__doc__)
    options.add_argument("--runs", nargs="*", type=int, metavar="COUNT", default=RUNS)
    options.add_argument("--joins", nargs="*", metavar="COUNT:LENGTH", default=JOINS)
    options.add_argument("--cleans", nargs="*", type=int, metavar="COUNT", default=CLEANS)
    options.add_argument("--child", nargs="+", help="one measurement, for us")
    chosen = options.parse_args()
    if chosen.child:
        kind, *what = chosen.child
        if kind == "command":
            command(*what)
        print(json.dumps(joins(*map(int, what)) if kind == "joins" else cleans(int(what[0]))))
        return 0
    measure(chosen.runs, chosen.joins, chosen.cleans, quick=chosen.quick)
    return 0


def measure(
    counts: Sequence[int] = RUNS, sizes: Sequence[str] = JOINS, cleaned: Sequence[int] = CLEANS, *, quick: bool = False
) -> None:
    """Measure, print and write the tables, small ones where ``quick``."""
    if quick:
        counts, sizes, cleaned = [10_000], ["100000:25"], [100_000]
    with tempfile.TemporaryDirectory(prefix="m2f-") as scratch:
        lines = [line for count in counts for line in runs(count, Path(scratch))]
    joined = [_bare(measured("joins", *size.split(":"))) for size in sizes]
    grouped = [_bare(measured("cleans", str(count))) for count in cleaned]
    parts = [(lines, NOTE), (joined, JOINS_NOTE), (grouped, CLEANS_NOTE)]
    texts = [text for rows, note in parts if rows for text in (table(rows), note)]
    publish("planning", "Planning", texts, threads=1, quick=quick)


def _bare(got: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in got.items() if name != "watch"}


if __name__ == "__main__":
    sys.exit(main())
