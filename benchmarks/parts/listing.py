"""Listing INPUT at scale: seconds, memory and requests per image, from 10^3 to 10^6 images.

    python -m benchmarks.parts.listing [--quick] [--s3 s3://BUCKET --objects 100000]
    python -m benchmarks.parts.listing --prefix s3://BUCKET/PREFIX [--beside CHECKOUT]

With --s3 (server and keys by the AWS variables) a bucket is filled once with small objects, flat and in 200 folders,
and listed. Each figure is taken in a process of its own; growth of memory is VmHWM over what imports had taken.
"""

import ctypes
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.lib.timing import PROJECT, parser, publish, say, table
from m2f_batch.inputs import listed
from m2f_batch.inputs import listing as listings
from m2f_batch.records import ImageRef
from m2f_batch.storage.places import open_store
from m2f_batch.storage.store import Entry, Page

FORMS = ("parquet", "csv", "txt", "jsonl")
COUNTS, QUICK_COUNTS = (1_000, 10_000, 100_000, 1_000_000), (1_000, 10_000)
FILES, QUICK_FILES = (1_000, 10_000, 100_000), (1_000,)
FOLDERS = 200
NOTE = """*entries* is a folder or prefix whose entries come from memory, in no order. Manifests have uris as in
`s3://bucket/2026/11/21/cam-07/000123456.jpg` in no order, and all but .txt two more columns; what their looking up
costs is left out here. CPU is the process's own, and steadier than wall time on a machine that others use. Every line
holds what is imported on the way, some 0.2 s of CPU and 40 MiB (pyarrow imports pandas with its first array)."""
S3_NOTE = """Server and client share the cores. *manifest* names all objects by a .parquet file of uris, *1 of N* each
Nth of them: listed by pages where wanted keys lie close together, looked at one by one elsewhere."""

TURNS_NOTE = """Each line is `list_input`, from the first request to the table with ids, in a fresh process, turn by
turn by the two checkouts. CPU is the client's own; the server shares the cores."""


def uri_of(number: int) -> str:
    """One of a camera's images."""
    return f"s3://bucket/2026/11/21/cam-07/{number:09d}.jpg"


def scattered(count: int) -> Iterator[int]:
    """The numbers below ``count``, in no order: 7919 is prime, and divides no count of ours."""
    return (number * 7919 % count for number in range(count))


def write_manifest(path: Path, count: int) -> None:
    """A manifest of ``count`` images by the extension of ``path``."""
    rows = ((uri_of(number), "train", number) for number in scattered(count))
    if path.suffix == ".parquet":
        pq.write_table(pa.table(dict(zip(("uri", "split", "weight"), zip(*rows, strict=True), strict=True))), path)
        return
    lines: dict[str, Callable[[tuple[str, str, int]], str]] = {
        ".csv": lambda row: "{},{},{}\n".format(*row),
        ".txt": lambda row: f"{row[0]}\n",
        ".jsonl": lambda row: json.dumps({"uri": row[0], "split": row[1], "weight": row[2]}) + "\n",
    }
    with path.open("w") as file:
        file.write("uri,split,weight\n" if path.suffix == ".csv" else "")
        file.writelines(map(lines[path.suffix], rows))


def pages(count: int) -> Iterator[Page]:
    """Yield the pages of a store with ``count`` images, 1000 at a time, each image with a version of its own."""
    numbers = scattered(count)
    while some := [*itertools.islice(numbers, 1000)]:
        versions = [f"{number * 0x9E3779B97F4A7C15:032x}"[-32:] for number in some]
        yield Page([*map(uri_of, some)], [100_000] * len(some), versions)


# ---- in a process of its own


def child(kind: str, what: str) -> dict[str, Any]:
    """Measure ``entries`` (a count), a ``manifest`` without looking images up, or an ``input`` as a run lists it."""
    requests: Counter[str] = Counter()
    if kind == "entries":
        store: Any = SimpleNamespace(pages=lambda folder: pages(int(what)))
        return measured(lambda: listings._of_folder(store, "s3://bucket"), requests)
    if kind == "manifest":
        known = lambda wanted: [Entry(uri, 1, "d41d8cd98f00b204e9800998ecf8427e") for uri in wanted]  # noqa: E731
        vars(listed)["stat_many"] = known
    elif what.startswith("s3://"):
        client: Any = open_store(what)._client  # type: ignore[attr-defined]
        client.meta.events.register("request-created.s3", lambda operation_name, **_: requests.update([operation_name]))
    return measured(lambda: listings.list_input(what), requests)


def measured(act: Callable[[], listings.Listing], requests: Counter[str]) -> dict[str, Any]:
    """Seconds and growth of memory (MiB) of listing, and how many requests it took."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    before, began, cpu = _status_mib("VmRSS"), time.perf_counter(), time.process_time()
    images = act().table
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    grown = _status_mib("VmHWM") - before
    last = images.slice(images.num_rows - 1).to_pylist()[0]
    assert last["image_id"] == ImageRef(last["uri"], last["version"]).image_id
    sizes = {"images": images.num_rows, "table_mib": images.nbytes / 2**20, "grown_mib": grown}
    return {**sizes, "seconds": seconds, "cpu": cpu, "requests": dict(requests)}


def _status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))


# ---- the tables


def line(name: str, kind: str, what: str | int, count: int, checkout: Path = PROJECT) -> dict[str, Any]:
    """Measure one line of a table in a fresh process. The listing must hold ``count`` images (0: any number)."""
    command = [sys.executable, "-m", "benchmarks.parts.listing", "--child", kind, str(what)]
    settings = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=checkout, env=settings)
    got = json.loads(done.stdout.splitlines()[-1])
    count = count or got["images"]
    assert got["images"] == count, f"{name}: {got['images']} images, not {count}"
    shown = {
        "INPUT": name,
        "images": f"{count:,}",
        "seconds": f"{got['seconds']:.2f}",
        "images/s": f"{count / got['seconds']:,.0f}",
        "CPU, µs/image": f"{got['cpu'] / count * 1e6:.1f}",
        "growth, MiB": f"{got['grown_mib']:.0f}",
        "table, MiB": f"{got['table_mib']:.1f}",
    }
    if got["requests"]:
        shown["requests"] = ", ".join(f"{number:,} {what}" for what, number in sorted(got["requests"].items()))
    say(", ".join(f"{name} {value}" for name, value in shown.items()))
    return shown


def manifests(counts: Iterable[int]) -> list[dict[str, Any]]:
    """Entries and manifests of each form, at each count."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="m2f-bench-") as scratch:
        for count in counts:
            lines.append(line("entries", "entries", count, count))
            for form in FORMS:
                path = Path(scratch) / f"m.{form}"
                write_manifest(path, count)
                lines.append(line(f".{form}", "manifest", str(path), count))
    return lines


def files(counts: Iterable[int]) -> list[dict[str, Any]]:
    """A directory on disk of 200 folders, and a manifest of all that is in it."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="m2f-bench-") as scratch:
        made: list[str] = []
        for count in counts:
            for number in range(len(made), count):
                path = Path(scratch) / "in" / keys_nested(number)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"x")
                made.append(str(path))
            lines.append(line("directory", "input", f"{scratch}/in", count))
            pq.write_table(pa.table({"uri": made}), f"{scratch}/m.parquet")
            lines.append(line(".parquet", "input", f"{scratch}/m.parquet", count))
    return lines


def keys_nested(number: int) -> str:
    """By day and camera: 200 folders per 100,000 images."""
    return f"nested/2026/11/{1 + number // 10_000:02d}/cam-{number // 500 % 20:02d}/{number:09d}.jpg"


def keys_flat(number: int) -> str:
    """All in one folder."""
    return f"flat/{number:09d}.jpg"


def on_s3(bucket: str, count: int) -> list[dict[str, Any]]:
    """A bucket with ``count`` objects flat and as many in folders."""
    lines, store = [], open_store(bucket)
    for name, key_of in (("flat", keys_flat), ("nested", keys_nested)):
        wanted = [f"{bucket}/{key_of(number)}" for number in range(count)]
        there = {entry.uri for entry in store.list(f"{bucket}/{name}/")}
        with ThreadPoolExecutor(16) as pool:
            [*pool.map(lambda uri: store.write(uri, uri.encode()), (uri for uri in wanted if uri not in there))]
        lines.append(line(f"prefix, {name}", "input", f"{bucket}/{name}/", count))
        for step in (1, 10, 30, 100):
            manifest = f"{bucket}/lists/{name}-{step}.parquet"
            chosen = wanted[::step]
            sink = pa.BufferOutputStream()
            pq.write_table(pa.table({"uri": chosen}), sink)
            store.write(manifest, sink.getvalue().to_pybytes())
            label = f"manifest, {name}" + ("" if step == 1 else f", 1 of {step}")
            lines.append(line(label, "input", manifest, len(chosen)))
    return lines


def turns(uri: str, beside: Path | None, rounds: int) -> list[dict[str, Any]]:
    """A prefix that is there, listed turn by turn by this checkout and another one."""
    checkouts = {"before": beside, "after": PROJECT} if beside else {"after": PROJECT}
    ways = [(name, checkout) for _ in range(rounds) for name, checkout in checkouts.items()]
    return [line(name, "input", uri, 0, checkout) for name, checkout in ways]


def main() -> int:
    """Measure, print and write the tables."""
    options = parser(__doc__)
    options.add_argument("--s3", metavar="s3://BUCKET", help="a bucket to fill and list")
    options.add_argument("--objects", type=int, default=100_000, help="how many it shall hold, twice")
    options.add_argument("--child", nargs=2, metavar=("KIND", "WHAT"), help="one measurement, for us")
    options.add_argument("--prefix", metavar="s3://BUCKET/PREFIX", help="list only this, which is there")
    options.add_argument("--beside", type=Path, metavar="CHECKOUT", help="of an older commit, to list --prefix in turn")
    options.add_argument("--rounds", type=int, default=3, help="how often each of the two lists --prefix")
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(child(*chosen.child)))
        return 0
    if chosen.prefix:
        parts = [table(turns(chosen.prefix, chosen.beside, chosen.rounds)), TURNS_NOTE]
        publish("listing-s3", f"Listing {chosen.prefix}", parts, threads=1, quick=chosen.quick)
        return 0
    parts = [table(manifests(QUICK_COUNTS if chosen.quick else COUNTS)), NOTE]
    parts += ["## Files on a disk", table(files(QUICK_FILES if chosen.quick else FILES))]
    if chosen.s3:
        parts += ["## A bucket", table(on_s3(chosen.s3, chosen.objects)), S3_NOTE]
    publish("listing", "Listing", parts, threads=1, quick=chosen.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
