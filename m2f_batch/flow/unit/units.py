"""One unit of work as it travels through the flow: the Arrow schema behind each stage, and how it is packed.

A unit is one row of a table with nested lists, so that however Ray cuts and joins blocks, a unit stays whole. Blocks
carry the resized uint8 content, not the full image: 0.4 MB at 384x384 where a photograph has 36 MB. Pixels and rows
cross from one stage to the next as Arrow buffers, never as Python objects.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from m2f_batch.errors import ImageError
from m2f_batch.records import SCHEMA, ImageRef
from m2f_batch.runs.plan import UNIT_SCHEMA, Unit

_SECONDS = pa.map_(pa.string(), pa.float64())
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
        ("seconds", _SECONDS),
        ("bytes", pa.int64()),  # read from storage
        ("retries", pa.int64()),  # of what failed in passing
        ("images", pa.large_list(_PREPARED)),
    ]
)
LABELLED_SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("transient", pa.string()),
        ("seconds", _SECONDS),
        ("bytes", pa.int64()),
        ("retries", pa.int64()),
        ("replica", pa.string()),  # the process that labelled it
        ("forward", pa.string()),  # how it computes: see ``runs.forwards``
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


def unit_table(unit: Unit) -> pa.Table:
    """A unit as a table of one row."""
    images = [{"uri": ref.uri, "version": ref.version} for ref in unit.refs]
    return pa.Table.from_pylist([{"unit": unit.name, "images": images}], schema=UNIT_SCHEMA)


def unit_row(schema: pa.Schema, unit: Mapping[str, Any], items: pa.StructArray) -> pa.Table:
    """A unit as one row; ``items`` are the images or rows in it, the schema's last column."""
    nested = pa.LargeListArray.from_arrays(pa.array([0, len(items)], pa.int64()), items).cast(schema.types[-1])
    fields = zip(schema.names[:-1], schema.types[:-1], strict=True)
    return pa.Table.from_arrays([*(pa.array([unit[name]], type_) for name, type_ in fields), nested], schema=schema)


def items_of(table: pa.Table, column: str) -> pa.StructArray:
    """What is nested in one unit's row; the row may be one of many in a block, so offsets count."""
    (nested,) = (chunk for chunk in table[column].chunks if len(chunk))
    return nested.flatten()


def rows_of(table: pa.Table) -> pa.Table:
    """The rows of one labelled unit as a table of the frozen schema, without a copy."""
    rows = items_of(table, "rows")
    return pa.Table.from_arrays([rows.field(name) for name in SCHEMA.names], schema=SCHEMA)


def with_seconds(table: pa.Table, more: Mapping[str, float]) -> pa.Table:
    """A unit's table with the seconds of one stage more."""
    place, (before,) = table.schema.get_field_index("seconds"), table["seconds"].to_pylist()
    return table.set_column(place, table.schema.field(place), pa.array([[*(before or []), *more.items()]], _SECONDS))


def split_unit(table: pa.Table) -> pa.Table:
    """A prepared unit as one unit per image, each with an equal part of the seconds and bytes; as it is if empty."""
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


def prepared_array(refs: Sequence[ImageRef], results: Sequence[Any]) -> pa.StructArray:
    """The images of a prepared unit from what became of each: a ``Prepared``, or the ImageError why there is none."""
    errors = [_error_entry(result) if isinstance(result, ImageError) else None for result in results]
    images = [None if isinstance(result, ImageError) else result for result in results]
    columns = {
        "uri": [ref.uri for ref in refs],
        "version": [ref.version for ref in refs],
        "error": errors,
        **{name: [getattr(image, name, None) for image in images] for name in ("content_hw", "canvas_hw", "output_hw")},
    }
    arrays = {name: pa.array(values, _PREPARED.field(name).type) for name, values in columns.items()}
    arrays["content"] = _binary([image.content for image in images if image is not None], errors)
    return pa.StructArray.from_arrays([arrays[field.name] for field in _PREPARED], fields=list(_PREPARED))


def _binary(contents: list[NDArray[np.uint8]], errors: list[Any]) -> pa.LargeBinaryArray:
    """The images' bytes one behind the other; none where there is an error."""
    left = iter(contents)
    lengths = [0 if error else next(left).nbytes for error in errors]
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    data = np.concatenate([np.empty(0, np.uint8), *(content.reshape(-1) for content in contents)])
    return pa.Array.from_buffers(pa.large_binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def contents_of(images: pa.StructArray) -> list[NDArray[np.uint8]]:
    """The uint8 bytes of each prepared image, in place: a scalar of Arrow's would copy them."""
    array = images.field("content")
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    whole = np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8)
    return [whole[first:last] for first, last in itertools.pairwise(bounds)]


def _error_entry(error: ImageError) -> dict[str, Any]:
    return {"stage": error.stage, "reason": error.reason, "message": error.message, "size_hw": error.size_hw}
