"""Checks each row of a table by itself, whole blocks of rows at a time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from m2f_batch.records import ImageRef
from m2f_batch.runs.inspect.rle_checks import canonical, overlapping

SCORE_ROUNDING = 1e-5  # a mean of float32 ones may come out a little larger
BLOCK = 1 << 18  # characters of codes looked at together: what is made of them stays in the processor's cache
MOST_CODES = 255  # of one call of pycocotools' area, whose number it keeps in a byte

# the row it is wrong with, and what is wrong
Finding = tuple[int, str]


def row_problems(rows: pa.Table, task: str, names: dict[int, str], may_be_empty: bool = False) -> Iterator[str]:
    """Yield one line for each thing that is wrong with a row.

    ``rows`` have the frozen schema, ``names`` are those of the labels. The id is that of uri and version. Status, error
    and segments go together. Ids count from 1, and categories are the run's. Every ``counts`` is the one encoding of a
    mask with its size, ``area`` and ``bbox``. None is empty, unless it may be. Segments of a panoptic or semantic
    ``task`` are disjoint, and semantic ones of different classes.
    """
    for batch in rows.to_batches():
        for block in _blocks(batch):
            found = [*_findings(block, task, names, may_be_empty)]
            for row, problem in sorted(found, key=lambda finding: finding[0]):
                yield f"{block['uri'][row]}: {problem}"


def _blocks(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Slices of at least one row, with about BLOCK characters of codes each."""
    segments = batch["segments"]
    ends = _text_ends(segments.values.field("counts"))[segments.offsets.to_numpy()]
    cuts = np.flatnonzero(np.diff(ends[:-1] // BLOCK)) + 1
    for first, last in zip([0, *cuts], [*cuts, batch.num_rows], strict=True):
        if last > first:
            yield batch.slice(first, last - first)


def _text_ends(texts: pa.StringArray) -> NDArray[np.int32]:
    """Return the number of characters before each text, and of all, [N + 1]."""
    offsets = texts.buffers()[1]
    if offsets is None or not len(texts):
        return np.zeros(1, np.int32)
    return np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]


def _findings(block: pa.RecordBatch, task: str, names: dict[int, str], may_be_empty: bool) -> Iterator[Finding]:
    yield from _identity(block)
    statuses, error, segments = block["status"], block["error"], block["segments"]
    ok, failed = _array(pc.equal(statuses, "ok")), _array(pc.equal(statuses, "error"))
    for row in np.flatnonzero(~(ok | failed) | (failed != _array(error.is_valid()))):
        yield int(row), f"status {statuses[row].as_py()!r} does not go with error {error[row].as_py()}"
    lengths = _array(pc.fill_null(pc.list_value_length(segments), 0))
    for row in np.flatnonzero(failed & (lengths > 0)):
        yield int(row), "an error row has segments"
    incomplete = _with_nulls(segments)
    for row in np.flatnonzero(incomplete):
        yield int(row), "segments, or parts of them, are null"
    height, width = (_array(pc.fill_null(block[name], 0)).astype(np.int64) for name in ("height", "width"))
    unsized = ok & ~incomplete & ((height == 0) | (width == 0))
    for row in np.flatnonzero(unsized):
        yield int(row), "an image that was labeled has no size"
    usable = ~incomplete & ~unsized
    owner = np.repeat(np.flatnonzero(usable), lengths[usable])
    entries = (segments if usable.all() else segments.filter(pa.array(usable))).flatten()
    if len(entries):
        yield from _segments(entries, owner, task, names)
        yield from _masks(entries, owner, np.stack([height, width], axis=1), task, may_be_empty)


def _identity(block: pa.RecordBatch) -> Iterator[Finding]:
    columns = (block[name].to_pylist() for name in ("image_id", "uri", "version"))
    for row, (image_id, uri, version) in enumerate(zip(*columns, strict=True)):
        if image_id != ImageRef(uri, version).image_id:
            yield row, f"image_id {image_id} is not that of its uri and version"


def _with_nulls(segments: pa.ListArray) -> NDArray[np.bool_]:
    """Return the rows whose segments are null, or hold a null, or one with a null field."""
    wrong = ~_array(segments.is_valid())
    offsets, entries = segments.offsets.to_numpy(), segments.values
    fields = [entries.field(index) for index in range(entries.type.num_fields)]
    for part in (entries, *fields):
        if part.null_count:
            places = np.flatnonzero(~_array(part.is_valid()))
            places = places[(places >= offsets[0]) & (places < offsets[-1])]
            wrong[np.searchsorted(offsets, places, side="right") - 1] = True
    return wrong


def _segments(entries: pa.StructArray, owner: NDArray[np.int64], task: str, names: dict[int, str]) -> Iterator[Finding]:
    """Check all but the masks. ``owner`` [S] is the row of each segment, ascending."""
    ids, classes = _array(entries.field("id")), _array(entries.field("category_id"))
    first = np.searchsorted(owner, owner)  # of the row's segments
    for row in np.unique(owner[ids != np.arange(1, len(owner) + 1) - first]):
        yield int(row), "the ids of its segments do not count from 1"
    known, which = np.unique(classes, return_inverse=True)
    expected = pa.array([names.get(label) for label in known.tolist()], pa.string()).take(pa.array(which))
    agree = _array(pc.fill_null(pc.equal(entries.field("category"), expected), False))
    for at in np.flatnonzero(~agree):
        category = entries.field("category")[at].as_py()
        yield int(owner[at]), f"segment {ids[at]}: category {classes[at]} is not {category!r}"
    scores = _array(entries.field("score")).astype(np.float64)
    for at in np.flatnonzero(~((scores >= 0) & (scores <= 1 + SCORE_ROUNDING))):
        yield int(owner[at]), f"segment {ids[at]}: score {scores[at]} is not between 0 and 1"
    if task == "semantic":
        pairs, times = np.unique(np.stack([owner, classes], axis=1), axis=0, return_counts=True)
        for row in np.unique(pairs[times > 1, 0]):
            yield int(row), "semantic segments share a class"


def _masks(
    entries: pa.StructArray, owner: NDArray[np.int64], sizes: NDArray[np.int64], task: str, may_be_empty: bool
) -> Iterator[Finding]:
    """Check the masks against pycocotools, which only gets valid codes. ``sizes`` is [rows, (height, width)]."""
    ids, counts = _array(entries.field("id")), entries.field("counts")
    pixels = np.where((sizes > 0).all(axis=1), sizes.prod(axis=1), 0)
    good, runs = canonical(counts, pixels[owner])
    rows, first = np.unique(owner[~good], return_index=True)
    for row, at in zip(rows, np.flatnonzero(~good)[first], strict=True):
        yield int(row), f"segment {ids[at]}: counts are not those of a mask of its size"
    sound = ~np.isin(owner, rows)
    at = np.flatnonzero(sound)
    if not len(at):
        return
    texts = counts.cast(pa.binary()).to_pylist()
    codes: list[Any] = [{"size": sizes[owner[i]].tolist(), "counts": texts[i]} for i in at]
    areas, boxes = _areas(codes), coco_mask.toBbox(codes)
    said = _array(entries.field("bbox").flatten()).astype(np.float64).reshape(-1, 4)[at]
    for i in np.flatnonzero((_array(entries.field("area"))[at] != areas) | (said != boxes).any(axis=1)):
        yield int(owner[at[i]]), f"segment {ids[at[i]]}: area or bbox are not its mask's"
    for row in () if may_be_empty else np.unique(owner[at[areas == 0]]):
        yield int(row), "a segment is empty"
    if task != "instance":
        for row in np.setdiff1d(overlapping(runs, owner[good], pixels[owner[good]]), rows):
            yield int(row), f"{task} segments overlap"


def _areas(codes: list[Any]) -> NDArray[np.int64]:
    parts = (codes[at : at + MOST_CODES] for at in range(0, len(codes), MOST_CODES))
    return np.concatenate([coco_mask.area(part).astype(np.int64) for part in parts])


def _array(values: pa.Array) -> NDArray[Any]:
    return values.to_numpy(zero_copy_only=False)
