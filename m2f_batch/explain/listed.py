"""The image that a user means, among those that a run listed, and its row."""

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from m2f_batch.errors import UsageError
from m2f_batch.messages.near_miss import near_misses
from m2f_batch.records import ImageRef, Row
from m2f_batch.runs.directory import RunDirectory
from m2f_batch.storage import uris
from m2f_batch.storage.store import NotFound

NEIGHBOURS = 1000  # listed names, on either side of where an unknown one would stand, that are looked at for a typo


class Listed(NamedTuple):
    """A listed image, and its row; None while it has none."""

    ref: ImageRef
    row: Row | None


def find_image(run: RunDirectory, info: dict[str, Any], uri: str) -> Listed:
    """The image that ``uri`` names: as rows spell it, in another spelling, or relative to INPUT.

    Raises UsageError, with names that come close, when it was not listed.
    """
    plan = run.read_plan()
    if plan is None:
        raise UsageError(f"RUN: {run.uri} has listed no images yet; try again when it has")
    listed = plan.table["uri"]
    for spelling in _spellings(uri, info["config"]["input"]):
        at = pc.index(listed, pa.scalar(spelling, listed.type)).as_py()
        if at >= 0:
            ref = ImageRef(spelling, plan.table["version"][at].as_py())
            return Listed(ref, _row(run, plan.table["file"][at].as_py(), ref))
    near = ", ".join(map(uris.shown, _near(uri, listed.to_pylist())))
    hint = f"did you mean {near}?" if near else "give it as the rows spell it, or relative to here or to INPUT"
    raise UsageError(f"URI: {uris.shown(uri)!r} is none of the {len(listed):,} images that {run.uri} listed; {hint}")


def _row(run: RunDirectory, file: str, ref: ImageRef) -> Row | None:
    try:
        rows = run.read_annotations(run.path(f"annotations/{file}.parquet"))
    except NotFound:
        return None
    at = pc.index(rows["image_id"], pa.scalar(ref.image_id, pa.int64())).as_py()
    return rows.slice(at, 1).to_pylist()[0] if at >= 0 else None


def _spellings(uri: str, source: dict[str, Any]) -> Iterator[str]:
    yield uri
    try:
        yield uris.normalise(uri)
    except UsageError as error:
        raise UsageError(f"URI: {error}") from None
    for folder in (source["uri"], source["root"], uris.parent(source["uri"])):
        with suppress(UsageError):
            if folder:
                yield uris.join(folder, uri)


def _near(uri: str, listed: list[str]) -> list[str]:
    """Up to three listed uris with the same file name, else with a name like it; ``listed`` is sorted."""
    name = uri.rpartition("/")[2]
    same = [other for other in listed if other.rpartition("/")[2] == name]
    if same:
        return same[:3]
    at = bisect_left(listed, uris.normalise(uri))
    names = {other.rpartition("/")[2]: other for other in listed[max(0, at - NEIGHBOURS) : at + NEIGHBOURS]}
    return [names[near] for near in near_misses(name, names, most=3)]
