"""The bytes of a manifest to a table, by the extension of its name."""

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from m2f_batch.errors import UsageError
from m2f_batch.storage import uris
from m2f_batch.storage.columns import CHUNK, TEXT, chunks_of, joined, text_column

_OURS = ("image_id", "version", "file")  # columns of RUN/_state/manifest.parquet


def resolved(column: pa.ChunkedArray, folder: str) -> pa.Array:
    """A manifest's column 'uri', relative ones resolved against ``folder``. Raises UsageError for a row without one."""
    parts = []
    for first in range(0, len(column), CHUNK):
        names = column.slice(first, CHUNK).cast(pa.string()).to_pylist()
        if not all(names):
            row = first + next(row for row, name in enumerate(names, 1) if not name)
            raise UsageError(f"row {row} has no 'uri'; give one or remove the row")
        parts.append(pa.array([uris.join(folder, name) for name in names], TEXT))
    return joined(parts)


def kept_columns(table: pa.Table) -> pa.Table:
    """A manifest's other columns; those that have a name of ours get ``input_`` before it."""
    table = table.drop_columns(["uri"])
    names = table.column_names
    for ours in _OURS:
        if ours in names:
            free = f"input_{ours}"
            while free in names:
                free = f"input_{free}"
            names[names.index(ours)] = free
    return table.rename_columns(names)


def _read_parquet(data: bytes) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(data))


def _read_csv(data: bytes) -> pa.Table:
    from pyarrow import csv

    return csv.read_csv(
        pa.BufferReader(data),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(column_types={"uri": pa.string()}),
    )


def _lines(data: bytes) -> Iterator[str]:
    return io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline="\n")


def _read_txt(data: bytes) -> pa.Table:
    lines = (line.strip() for line in _lines(data))
    return pa.table({"uri": text_column(line for line in lines if line and not line.startswith("#"))})


def _read_jsonl(data: bytes) -> pa.Table:
    columns: dict[str, list[pa.Array]] = {}
    read = 0
    for rows in chunks_of(_json_rows(data)):
        for name in dict.fromkeys(name for row in rows for name in row):
            columns.setdefault(name, [pa.nulls(read)] if read else [])
        for name, parts in columns.items():
            parts.append(_column(name, [row.get(name) for row in rows]))
        read += len(rows)
    return pa.table({name: _of_one_type(name, columns.get(name, [])) for name in columns or ["uri"]})


def _json_rows(data: bytes) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(data), 1):
        if line.strip():
            row = parse_json(line, f"line {number}")
            if not isinstance(row, dict) or not isinstance(row.get("uri"), str):
                raise UsageError(f'line {number} is not like {{"uri": "a.jpg", ...}}')
            yield row


def _column(name: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise UsageError(f"column {name!r} mixes types, or holds what no column can: {error}") from error


def _of_one_type(name: str, parts: list[pa.Array]) -> pa.ChunkedArray:
    """Parts of a column as if their values had been seen at once: integers become float where one is, and so on."""
    kinds = {part.type for part in parts} - {pa.null()}
    if len(kinds) > 1:
        return pa.chunked_array([_column(name, [value for part in parts for value in part.to_pylist()])])
    (kind,) = kinds or {pa.null()}
    return pa.chunked_array([pa.nulls(len(part), kind) if part.type == pa.null() else part for part in parts], kind)


def parse_json(text: str | bytes, where: str) -> Any:
    """The parsed text. Raises UsageError, which begins with ``where``."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not valid JSON: {error}") from error


READERS: dict[str, Callable[[bytes], pa.Table]] = {
    "parquet": _read_parquet,
    "csv": _read_csv,
    "jsonl": _read_jsonl,
    "txt": _read_txt,
}
