"""Packs one unit as it travels through the flow, by the Arrow schema behind each stage.

A unit is one row of a table with nested lists, so that however Ray cuts and joins blocks, a unit stays whole. Blocks
carry the resized uint8 content, not the full image: 0.4 MB at 384x384 where a photograph has 36 MB. Pixels and rows
cross from one stage to the next as Arrow buffers, never as Python objects.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from m2f_batch.errors import ImageError
from m2f_batch.records import SCHEMA, ImageRef
from m2f_batch.runs.plan import UNIT_SCHEMA, Unit
from m2f_batch.vision.cuts.view import View, Window
from m2f_batch.vision.pixels.prepared import Content, Prepared

_SECONDS = pa.map_(pa.string(), pa.float64())
_HW = pa.list_(pa.int32(), 2)
_ERROR = pa.struct([("stage", pa.string()), ("reason", pa.string()), ("message", pa.string()), ("size_hw", _HW)])
_VIEW = pa.struct(
    [
        ("window", pa.list_(pa.int32(), 4)),
        ("content_hw", _HW),
        ("canvas_hw", _HW),
        ("content", pa.large_binary()),
    ]
)
_PREPARED = pa.struct(
    [
        ("uri", pa.string()),
        ("version", pa.string()),
        ("error", _ERROR),
        ("output_hw", _HW),
        ("views", pa.list_(_VIEW)),
    ]
)


class _ErrorEntry(TypedDict):
    """An ImageError as Arrow has it."""

    stage: str
    reason: str
    message: str
    size_hw: Sequence[int] | None


PREPARED_SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("transient", pa.string()),  # why the unit could not be fetched whole: then it has no images
        ("seconds", _SECONDS),
        ("bytes", pa.int64()),  # read from storage
        ("retries", pa.int64()),  # of what failed in passing
        ("images", pa.large_list(_PREPARED)),
    ]
)
LABELED_SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("transient", pa.string()),
        ("seconds", _SECONDS),
        ("bytes", pa.int64()),
        ("retries", pa.int64()),
        ("replica", pa.string()),  # the process that labeled it
        ("forward", pa.string()),  # how it computes: see ``runs.forward_kinds``
        (
            "sidecars",
            pa.map_(pa.string(), pa.large_binary()),
        ),  # of each table an IPC stream
        ("rows", pa.large_list(pa.struct(list(SCHEMA)))),
    ]
)
DONE_SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("transient", pa.string()),
        ("seconds", _SECONDS),
        ("bytes", pa.int64()),
        ("retries", pa.int64()),
        ("replica", pa.string()),
        ("forward", pa.string()),
        ("ok", pa.int64()),
        ("error", pa.int64()),
        ("segments", pa.int64()),
        ("reasons", pa.map_(pa.string(), pa.int64())),
        ("strangers", pa.int64()),
    ]
)


class DoneUnit(TypedDict):
    """A row of ``DONE_SCHEMA``: what was committed of a unit, or why it is ``transient`` and was not."""

    unit: str
    transient: str | None
    seconds: Iterable[tuple[str, float]] | None
    bytes: int | None
    retries: int | None
    replica: str | None
    forward: str | None
    ok: int
    error: int
    segments: int
    reasons: Iterable[tuple[str, int]]
    strangers: int | None


def unit_table(unit: Unit) -> pa.Table:
    """Return a unit as a table of one row."""
    images = [{"uri": ref.uri, "version": ref.version} for ref in unit.refs]
    return pa.Table.from_pylist([{"unit": unit.name, "images": images}], schema=UNIT_SCHEMA)


def unit_row(schema: pa.Schema, unit: Mapping[str, object], items: pa.StructArray) -> pa.Table:
    """Return a unit as one row. ``items`` are the images or rows in it, the schema's last column."""
    nested = pa.LargeListArray.from_arrays(pa.array([0, len(items)], pa.int64()), items).cast(schema.types[-1])
    fields = zip(schema.names[:-1], schema.types[:-1], strict=True)
    return pa.Table.from_arrays([*(pa.array([unit[name]], type_) for name, type_ in fields), nested], schema=schema)


def items_of(table: pa.Table, column: str) -> pa.StructArray:
    """Return the items nested in one unit's row. The row may be one of many in a block, so offsets count."""
    (nested,) = (chunk for chunk in table[column].chunks if len(chunk))
    return nested.flatten()


def rows_of(table: pa.Table) -> pa.Table:
    """Return the rows of one labeled unit as a table of the frozen schema, without a copy."""
    rows = items_of(table, "rows")
    return pa.Table.from_arrays([rows.field(name) for name in SCHEMA.names], schema=SCHEMA)


def packed(sidecars: Mapping[str, Sequence[pa.Table]]) -> list[tuple[str, bytes]]:
    """Return the sidecars of a unit for its column ``sidecars``: the tables of each are joined."""
    streams = []
    for name, tables in sidecars.items():
        table, sink = pa.concat_tables(tables), pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        streams.append((name, sink.getvalue().to_pybytes()))
    return streams


def sidecars_of(table: pa.Table) -> dict[str, pa.Table]:
    """Return the sidecars of one labeled unit by name."""
    (streams,) = table["sidecars"].to_pylist()
    return {name: pa.ipc.open_stream(stream).read_all() for name, stream in streams or ()}


def with_seconds(table: pa.Table, more: Mapping[str, float]) -> pa.Table:
    """Return a unit's table with the seconds of one stage more."""
    place, (before,) = table.schema.get_field_index("seconds"), table["seconds"].to_pylist()
    return table.set_column(place, table.schema.field(place), pa.array([[*(before or []), *more.items()]], _SECONDS))


def split_unit(table: pa.Table) -> pa.Table:
    """Split a prepared unit into one unit per image, with equal parts of seconds and bytes. An empty one stays."""
    images = items_of(table, "images")
    if len(images) == 0:
        return table
    (unit,) = table.drop_columns(["images"]).to_pylist()
    part = {
        **unit,
        "seconds": [(stage, seconds / len(images)) for stage, seconds in unit["seconds"]],
        "bytes": round(unit["bytes"] / len(images)),
    }
    return pa.concat_tables([unit_row(PREPARED_SCHEMA, part, images.slice(at, 1)) for at in range(len(images))])


def prepared_array(refs: Sequence[ImageRef], results: Sequence[Prepared | ImageError]) -> pa.StructArray:
    """Pack the images of a prepared unit: each ``Prepared``, or the ImageError why there is none."""
    images = [None if isinstance(result, ImageError) else result for result in results]
    columns = {
        "uri": [ref.uri for ref in refs],
        "version": [ref.version for ref in refs],
        "error": [_error_entry(result) if isinstance(result, ImageError) else None for result in results],
        "output_hw": [None if image is None else image.output_hw for image in images],
    }
    arrays = {name: pa.array(values, _PREPARED.field(name).type) for name, values in columns.items()}
    counts = [0 if image is None else len(image.views) for image in images]
    views = _views_array([image for image in images if image is not None])
    arrays["views"] = pa.ListArray.from_arrays(np.cumsum([0, *counts], dtype=np.int32), views)
    return pa.StructArray.from_arrays([arrays[field.name] for field in _PREPARED], fields=list(_PREPARED))


def _views_array(images: Sequence[Prepared]) -> pa.StructArray:
    rows = [[*view.window, *view.content_hw, *view.canvas_hw] for image in images for view in image.views]
    sizes = np.array(rows, np.int32).reshape(len(rows), 8)
    lists = [
        pa.FixedSizeListArray.from_arrays(pa.array(sizes[:, first:last].ravel()), last - first)
        for first, last in itertools.pairwise((0, 4, 6, 8))
    ]
    contents = _binary([content for image in images for content in image.contents])
    return pa.StructArray.from_arrays([*lists, contents], fields=list(_VIEW))


def _binary(contents: list[Content]) -> pa.LargeBinaryArray:
    """Pack bytes one behind the other."""
    offsets = np.cumsum([0, *(content.nbytes for content in contents)], dtype=np.int64)
    data = np.concatenate([np.empty(0, np.uint8), *(content.reshape(-1).view(np.uint8) for content in contents)])
    return pa.Array.from_buffers(pa.large_binary(), len(contents), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def prepared_of(images: pa.StructArray) -> tuple[list[ImageRef], list[Prepared | ImageError]]:
    """Unpack what ``prepared_array`` packed. Pixels stay in place: a scalar of Arrow's would copy them."""
    names = [field.name for field in _PREPARED if field.name != "views"]
    entries = pa.StructArray.from_arrays([images.field(name) for name in names], names).to_pylist()
    nested = images.field("views")
    views, contents = _views_of(nested.flatten())
    bounds = itertools.pairwise((nested.offsets.to_numpy() - nested.offsets[0].as_py()).tolist())
    results: list[Prepared | ImageError] = [
        Prepared(tuple(contents[first:last]), tuple(views[first:last]), tuple(entry["output_hw"]))
        if entry["error"] is None
        else _error_of(entry["error"])
        for entry, (first, last) in zip(entries, bounds, strict=True)
    ]
    return [ImageRef(entry["uri"], entry["version"]) for entry in entries], results


def _views_of(array: pa.StructArray) -> tuple[list[View], list[Content]]:
    lists = (array.field(name) for name in ("window", "content_hw", "canvas_hw"))
    columns = (each.flatten().to_numpy().reshape(-1, each.type.list_size).tolist() for each in lists)
    views = [
        View(Window(*window), (content[0], content[1]), (canvas[0], canvas[1]))
        for window, content, canvas in zip(*columns, strict=True)
    ]
    pixels = _bytes_of(array.field("content"))
    return views, [_content_of(each, view) for view, each in zip(views, pixels, strict=True)]


def _content_of(data: NDArray[np.uint8], view: View) -> Content:
    """Return the pixels of a view, of one byte a value, or four for those that were not rounded."""
    height, width = view.content_hw
    return (data if len(data) == 3 * height * width else data.view(np.float32)).reshape(height, width, 3)


def _bytes_of(array: pa.LargeBinaryArray) -> list[NDArray[np.uint8]]:
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    whole = np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8)
    return [whole[first:last] for first, last in itertools.pairwise(bounds.tolist())]


def _error_entry(error: ImageError) -> _ErrorEntry:
    return {"stage": error.stage, "reason": error.reason, "message": error.message, "size_hw": error.size_hw}


def _error_of(entry: _ErrorEntry) -> ImageError:
    size_hw = None if entry["size_hw"] is None else (entry["size_hw"][0], entry["size_hw"][1])
    return ImageError(entry["stage"], entry["reason"], entry["message"], size_hw=size_hw)
