"""The bytes of a manifest to a table, by the extension of its name."""

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from m2f_batch.errors import UsageError


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


def _read_txt(data: bytes) -> pa.Table:
    lines = [line.strip() for line in data.decode("utf-8-sig").split("\n")]
    return pa.table({"uri": pa.array([line for line in lines if line and not line.startswith("#")], pa.string())})


def _read_jsonl(data: bytes) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(data.decode("utf-8-sig").split("\n"), 1):
        if line.strip():
            row = parse_json(line, f"line {number}")
            if not isinstance(row, dict) or not isinstance(row.get("uri"), str):
                raise UsageError(f'line {number} is not like {{"uri": "a.jpg", ...}}')
            rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column(name, [row.get(name) for row in rows]) for name in names or ["uri"]})


def _column(name: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise UsageError(f"column {name!r} mixes types, or holds what no column can: {error}") from error


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
