"""What happens to one unit of work, stage by stage, without Ray: fetch and prepare, label, commit.

A unit travels as one row of a table with nested lists, so that however Ray cuts and joins blocks, a unit stays whole.
Blocks carry the resized uint8 content, not the full image: 0.4 MB at 384x384 where a photograph has 36 MB.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from m2f_batch.errors import ImageError, TransientError
from m2f_batch.records import SCHEMA, ImageRef, Row, error_row, ok_row, table_of
from m2f_batch.storage.fetch import fetch_many
from m2f_batch.storage.run import RunDirectory, Tally, Unit

UNIT_SCHEMA = pa.schema(
    [("unit", pa.string()), ("images", pa.list_(pa.struct([("uri", pa.string()), ("version", pa.string())])))]
)
_HW = pa.list_(pa.int32(), 2)
_ERROR = pa.struct([("stage", pa.string()), ("reason", pa.string()), ("message", pa.string()), ("size_hw", _HW)])
_PREPARED = pa.struct(
    [
        ("uri", pa.string()),
        ("version", pa.string()),
        ("error", _ERROR),
        ("content", pa.large_binary()),
        ("content_hw", _HW),
        ("canvas_hw", _HW),
        ("output_hw", _HW),
    ]
)
PREPARED_SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("transient", pa.string()),  # why the unit could not be fetched whole; then it has no images
        ("images", pa.large_list(_PREPARED)),
    ]
)
LABELLED_SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("transient", pa.string()),
        ("rows", pa.large_list(pa.struct(list(SCHEMA)))),
    ]
)
DONE_SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("transient", pa.string()),
        ("ok", pa.int64()),
        ("error", pa.int64()),
        ("segments", pa.int64()),
        ("reasons", pa.map_(pa.string(), pa.int64())),
    ]
)


def unit_table(unit: Unit) -> pa.Table:
    """A unit as a table of one row."""
    images = [{"uri": ref.uri, "version": ref.version} for ref in unit.refs]
    return pa.Table.from_pylist([{"unit": unit.name, "images": images}], schema=UNIT_SCHEMA)


def prepare_unit(table: pa.Table, *, plan: Any, max_pixels: int, threads: int) -> pa.Table:
    """Fetch, decode and resize every image of one unit; a failed one carries its reason along."""
    import torch

    from m2f_batch.vision.preprocess import prepare_image

    torch.set_num_threads(1)  # one task, one CPU; a resize in uint8 does not depend on it
    (unit,) = table.to_pylist()
    refs = [ImageRef(image["uri"], image["version"]) for image in unit["images"]]
    images, transient = [], None
    try:
        for ref, data in fetch_many(refs, threads=threads):
            result = data if isinstance(data, ImageError) else prepare_image(data, plan, max_pixels)
            images.append(_prepared_entry(ref, result))
    except TransientError as error:
        images, transient = [], str(error)
    row = {"unit": unit["unit"], "transient": transient, "images": images}
    return pa.Table.from_pylist([row], schema=PREPARED_SCHEMA)


def label_unit(table: pa.Table, segmenter: Any) -> pa.Table:
    """Rows of one prepared unit, in the order of its images."""
    (unit,) = table.drop_columns(["images"]).to_pylist()
    rows = list(_label(table, segmenter))
    return pa.Table.from_pylist([{**unit, "rows": rows}], schema=LABELLED_SCHEMA)


def commit_unit(table: pa.Table, *, run: RunDirectory) -> pa.Table:
    """Write the rows of one labelled unit, and say how many there were of what."""
    (unit,) = table.to_pylist()
    tally = Tally()
    if unit["transient"] is None:
        try:
            tally.add(run.commit(unit["unit"], table_of(unit["rows"])))
        except TransientError as error:
            unit["transient"] = str(error)
    done = {
        "unit": unit["unit"],
        "transient": unit["transient"],
        "ok": tally.ok,
        "error": tally.error,
        "segments": tally.segments,
        "reasons": list(tally.reasons.items()),
    }
    return pa.Table.from_pylist([done], schema=DONE_SCHEMA)


def _prepared_entry(ref: ImageRef, result: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"uri": ref.uri, "version": ref.version}
    if isinstance(result, ImageError):
        error = {"stage": result.stage, "reason": result.reason, "message": result.message, "size_hw": result.size_hw}
        return {**entry, "error": error}
    return {
        **entry,
        "content": result.content.tobytes(),
        "content_hw": result.content_hw,
        "canvas_hw": result.canvas_hw,
        "output_hw": result.output_hw,
    }


def _label(table: pa.Table, segmenter: Any) -> Iterator[Row]:
    from m2f_batch.vision.preprocess import Prepared

    images = table["images"].combine_chunks()
    entries = images.values if isinstance(images, pa.LargeListArray) else images.chunk(0).values
    contents = entries.field("content")
    slim = pa.StructArray.from_arrays(
        [entries.field(name) for name in ("uri", "version", "error", "content_hw", "canvas_hw", "output_hw")],
        ["uri", "version", "error", "content_hw", "canvas_hw", "output_hw"],
    ).to_pylist()
    prepared = [
        Prepared(
            np.frombuffer(contents[index].as_buffer(), np.uint8).reshape(*entry["content_hw"], 3),
            tuple(entry["canvas_hw"]),
            tuple(entry["output_hw"]),
        )
        for index, entry in enumerate(slim)
        if entry["error"] is None
    ]
    results = iter(zip(prepared, segmenter.label(prepared), strict=True))
    for entry in slim:
        ref, error = ImageRef(entry["uri"], entry["version"]), entry["error"]
        if error is not None:
            size_hw = tuple(error.pop("size_hw")) if error["size_hw"] else error.pop("size_hw")
            yield error_row(ref, ImageError(**error, size_hw=size_hw))
            continue
        image, result = next(results)
        if isinstance(result, ImageError):
            yield error_row(ref, result)
        else:
            yield ok_row(ref, image.output_hw, result)
