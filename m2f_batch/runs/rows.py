"""Reads all rows of a run in the order of their URIs, also where files overlap.

A run that went on over new images has a file of a..z, and small ones in between.
"""

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from m2f_batch.runs.assignment import read_assigned
from m2f_batch.runs.directory import RunDirectory

ROWS = 256  # of each open file, in one table at most: what is merged is copied


@dataclass(frozen=True)
class Order:
    """The committed files of one moment, by the uri of their first row: (first uri, file's uri).

    ``wanted`` are the image ids that the manifest gives each, as long as it names files.
    """

    files: list[tuple[str, str]]
    wanted: dict[str, NDArray[np.int64]]


def order_of(run: RunDirectory) -> Order:
    """Return the order of the files that are there now. None is read, if the manifest names them."""
    there, assigned = run.committed(), read_assigned(run)
    if assigned is None:
        firsts = [(run.read_annotations(entry.uri, ["uri"])["uri"], entry.uri) for entry in there.values()]
        return Order(sorted((uris[0].as_py(), file) for uris, file in firsts if len(uris)), {})
    named = [(uri, name) for uri, name in zip(assigned.first_uris, assigned.names, strict=True) if name in there]
    wanted = {there[name].uri: assigned.ids(name) for _, name in named}
    return Order(sorted((uri, there[name].uri) for uri, name in named), wanted)


def tables_by_uri(
    run: RunDirectory, columns: list[str] | None = None, order: Order | None = None
) -> Iterator[pa.Table]:
    """Yield all rows in the order of their uris, some at a time: those of files, and images, that the manifest names.

    A file is read once, whole, when its first uri is reached, and dropped with its last row. Readers that come twice
    give the ``order`` of their first time, or they may see more files the second time.
    """
    left = order_of(run) if order is None else order
    open_: list[pa.Table] = []
    for at, (first, _) in enumerate(left.files):
        while open_ and (step := _step(open_, first)) is not None:
            yield _shown(step, columns)
        open_.append(_read(run, left, at, columns))
    while open_ and (step := _step(open_, None)) is not None:
        yield _shown(step, columns)


def _read(run: RunDirectory, order: Order, at: int, columns: list[str] | None) -> pa.Table:
    """Return the rows of one file, as far as the manifest names them."""
    _, uri = order.files[at]
    ids = order.wanted.get(uri)
    needed = ["uri"] if ids is None else ["uri", "image_id"]
    rows = run.read_annotations(uri, None if columns is None else [*dict.fromkeys([*columns, *needed])])
    if ids is not None:
        is_wanted = np.isin(rows["image_id"].to_numpy(), ids)
        rows = rows if is_wanted.all() else rows.filter(pa.array(is_wanted))
    return rows


def _shown(rows: pa.Table, columns: list[str] | None) -> pa.Table:
    return rows if columns is None else rows.select(columns)


def _step(open_: list[pa.Table], before: str | None) -> pa.Table | None:
    """Take the next rows off the open files, those with URIs below ``before``, None when there are none.

    Files without further rows are taken out of ``open_``.
    """
    open_[:] = [rows for rows in open_ if rows.num_rows]
    if not open_:
        return None
    # up to the least that each file's share reaches: nothing of any file can come below it later
    ends = [rows["uri"][ROWS].as_py() for rows in open_ if rows.num_rows > ROWS] if len(open_) > 1 else []
    end = min(ends, default=None)
    parts = []
    for index, rows in enumerate(open_):
        if before is not None and (end is None or before <= end):
            count = _place(rows, before, bisect.bisect_left)
        else:
            count = rows.num_rows if end is None else _place(rows, end, bisect.bisect_right)
        if count:
            parts.append(rows.slice(0, count))
            open_[index] = rows.slice(count)
    if len(parts) < 2:
        return parts[0] if parts else None
    merged = pa.concat_tables(parts)
    return merged.take(pc.sort_indices(merged["uri"]))


def _place(rows: pa.Table, uri: str, find: Callable[..., int]) -> int:
    uris = rows["uri"]
    return find(range(len(uris)), uri, key=lambda index: uris[index].as_py())
