"""Makes the table of images to label: sorted by uri, each once, with its id and version."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from m2f_batch.errors import RunError
from m2f_batch.inputs.columns import first_of_each, picked_apart, taken
from m2f_batch.records import image_ids
from m2f_batch.storage.driver_memory import Room
from m2f_batch.storage.places import stat_many
from m2f_batch.storage.store import OF_LENGTH


@dataclass(frozen=True)
class Listing:
    """Holds the images of an INPUT.

    ``table`` is sorted by uri: ``image_id`` (int64), ``uri`` and ``version`` (string), then a manifest's other columns,
    or ``coco_id`` (int64). ``skipped`` counts files that are no images by their name, ``duplicates`` the entries whose
    uri had come before. ``notes`` are lines for the plan: what was passed over, and what is not seen.
    """

    table: pa.Table
    skipped: int
    duplicates: int
    notes: tuple[str, ...] = ()


def listing_of(names: pa.Array, versions: pa.Array | None, kept: pa.Table | None, skipped: int) -> Listing:
    """Makes a listing, and asks for ``versions`` that are None. Of a uri that comes twice the first entry wins."""
    Room().take(names, *(() if kept is None else kept.columns))
    rows = first_of_each(names)
    duplicates = len(names) - len(rows)
    ordered = taken(names, rows)
    del names
    found = _looked_up(ordered) if versions is None else taken(versions, rows)
    table = pa.table({"image_id": pa.array(_ids(ordered, found)), "uri": ordered, "version": found})
    if kept is not None:
        for name in kept.column_names:
            table = table.append_column(name, picked_apart(kept[name], rows))
    pa.default_memory_pool().release_unused()  # it would keep as much again, for as long as the driver lives
    notes = tuple(_notes(found)) if versions is None else ()
    return Listing(table, skipped, duplicates, notes)


def _notes(versions: pa.ChunkedArray) -> Iterator[str]:
    if count := pc.sum(pc.starts_with(versions, OF_LENGTH)).as_py():
        yield (
            f"images of the web without ETag and Last-Modified: {count:,}; their length stands for their version, and "
            "a change that keeps it is not seen"
        )


def _looked_up(names: pa.ChunkedArray) -> pa.ChunkedArray:
    found = (stat_many(chunk.to_pylist()) for chunk in names.chunks)
    parts = [pa.array([entry.version if entry else "" for entry in entries], pa.string()) for entries in found]
    return pa.chunked_array(parts, pa.string())


def _ids(names: pa.ChunkedArray, versions: pa.ChunkedArray) -> NDArray[np.int64]:
    """Returns the image ids of rows in chunks of the same sizes."""
    ids = np.empty(len(names), np.int64)
    first = 0
    for some, theirs in zip(names.chunks, versions.chunks, strict=True):
        ids[first : first + len(some)] = image_ids(some.to_pylist(), theirs.to_pylist())
        first += len(some)
    _check_unique(ids, names)
    return ids


def _check_unique(ids: NDArray[np.int64], names: pa.ChunkedArray) -> None:
    order = np.argsort(ids, kind="stable")
    again = order[1:][ids[order[1:]] == ids[order[:-1]]]
    if len(again):
        row = again.min()
        first, second = names[int(np.argmax(ids == ids[row]))].as_py(), names[int(row)].as_py()
        raise RunError(f"{first!r} and {second!r} have the same image_id, {ids[row]}; rename one of them")
