"""Planning without images: the joins of a plan over very many uris, each step with its seconds and peak memory.

    python -m benchmarks.planning [--joins 70000000:25 23000000:100]

Each figure is taken in a process of its own; uris are made by Arrow and numpy, so that what is measured is the plan.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from benchmarks.timing import PROJECT, parser, say

JOINS = ("70000000:25", "23000000:100")
FILE, UNIT = 4096, 32  # images
CHUNK = 1 << 20  # uris made at a time
CHANGED = 100  # one of so many images has changed in the next listing
_T = TypeVar("_T")


def listing(count: int, length: int, version: int = 0) -> pa.Table:
    """A listing in order of ``count`` uris of ``length`` characters; in ``version`` 1 one of CHANGED is another."""
    parts = [_chunk(first, min(CHUNK, count - first), length, version) for first in range(0, count, CHUNK)]
    return pa.concat_tables(parts)


def _chunk(first: int, count: int, length: int, version: int) -> pa.Table:
    numbers = np.arange(first, first + count, dtype=np.int64)
    is_changed = numbers % CHANGED == 0
    ids = (numbers * 0x5851F42D4C957F2D + np.where(is_changed, version, 0)) & 0x7FFFFFFFFFFFFFFF
    versions = pa.array(np.where(is_changed, version, 0)).cast(pa.string())
    return pa.table({"image_id": ids, "uri": uris(numbers, length), "version": versions})


def uris(numbers: "np.ndarray[Any, np.dtype[np.int64]]", length: int) -> pa.Array:
    """``s3://bucket/xxx/000000123.jpg``: texts of ``length`` characters, in the order of their numbers."""
    text = np.frombuffer(b"s3://b/".ljust(length - 13, b"x") + b"000000000.jpg", np.uint8)
    data = np.tile(text, (len(numbers), 1))
    left = numbers.copy()
    for digit in range(1, 10):
        data[:, -4 - digit] = ord("0") + left % 10
        left //= 10
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * length
    return pa.Array.from_buffers(pa.string(), len(numbers), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


# ---- in a process of its own


def joins(count: int, length: int) -> dict[str, Any]:
    """Seconds of each join, and the peak memory of the process after it (MiB); what it gives is checked by counts."""
    from m2f_batch.storage.assigned import assigned_of
    from m2f_batch.storage.plan import new_plan, next_plan, pending

    got: dict[str, Any] = {"images": count, "length": length}

    def step(name: str, act: Callable[[], _T]) -> _T:
        began = time.perf_counter()
        done = act()
        got[name] = [round(time.perf_counter() - began, 1), peak_mib()]
        print(name, got[name], file=sys.stderr, flush=True)
        return done

    plan = step("new_plan", partial(new_plan, step("listing", partial(listing, count, length)), "f", FILE, UNIT))
    assert len(step("pending", partial(pending, plan, ()))) == units_of(count)
    files = set(plan.files().dictionary.to_pylist())
    assert step("assigned_of", partial(assigned_of, plan.manifest())).listed == count
    new = step("next listing", partial(listing, count, length, 1))
    change = step("next_plan", partial(next_plan, plan, new, files, np.zeros(0, np.int64), "f", FILE, UNIT))
    changed = -(-count // CHANGED)
    assert (change.new, change.changed, change.vanished) == (0, changed, 0)
    assert len(step("pending, next", partial(pending, change.plan, files))) == units_of(changed)
    return got


def units_of(count: int) -> int:
    """How many units so many images are."""
    return sum(-(-min(FILE, count - first) // UNIT) for first in range(0, count, FILE))


def peak_mib() -> int:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


# ---- from outside


def measured(kind: str, *what: str) -> dict[str, Any]:
    """What a child says."""
    command = [sys.executable, "-m", "benchmarks.planning", "--child", kind, *what]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=PROJECT)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--joins", nargs="*", metavar="COUNT:LENGTH", default=JOINS)
    options.add_argument("--child", nargs="+", help="one measurement, for us")
    chosen = options.parse_args()
    if chosen.child:
        _, count, length = chosen.child
        print(json.dumps(joins(int(count), int(length))))
        return 0
    for what in chosen.joins:
        say(json.dumps(measured("joins", *what.split(":"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
