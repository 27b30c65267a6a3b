"""Reads a manifest to a table, by the extensions of its name. Compressed ones are recognized by their bytes."""

import bz2
import codecs
import gzip
import io
import lzma
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa

from m2f_batch.errors import UsageError
from m2f_batch.inputs import kinds
from m2f_batch.inputs.columns import CHUNK, TEXT, chunks_of, joined, text_column
from m2f_batch.inputs.names.images import IMAGE_EXTENSIONS, extension_of, path_of
from m2f_batch.storage import allow, uris
from m2f_batch.storage.driver_memory import Room
from m2f_batch.storage.json_text import json_object_or_none, parse_json
from m2f_batch.storage.native_memory import reader_of

MAX_UNPACKED = 1 << 32  # bytes of a compressed manifest: some 40 million names
_OURS = ("image_id", "version", "file")  # columns of RUN/_state/manifest.parquet
_OTHER = frozenset(";\t|")  # what may stand between columns elsewhere
# what others call that column, the likeliest first
_NEAR = (
    *("uri", "url", "image_uri", "image_url", "path", "image_path", "img_path", "file_path", "filepath", "file_name"),
    *("filename", "image_file", "image_name", "image", "img", "file", "key", "name"),
)
_PACKED = {"gz": b"\x1f\x8b", "bz2": b"BZh", "xz": b"\xfd7zXZ\0", "zst": b"\x28\xb5\x2f\xfd"}


class Manifest(NamedTuple):
    """Holds the rows of a manifest, and how many lines of it are comments."""

    table: pa.Table
    comments: int = 0


def kind_of(name: str) -> str | None:
    """Returns what a file is read as, by its name: a key of ``READERS``, ``json``, or None for what is no manifest.

    >>> kind_of("list.csv.gz"), kind_of("list.ndjson"), kind_of("coco.json"), kind_of("shard.tar.gz")
    ('csv', 'jsonl', 'json', None)
    """
    name = path_of(name)
    extension = extension_of(name)
    if extension in _PACKED:
        extension = extension_of(name[: -len(extension) - 1])
    kind = {"ndjson": "jsonl", "pq": "parquet"}.get(extension, extension)
    return kind if kind in READERS or kind == "json" else None


def read_manifest(kind: str, data: bytes) -> Manifest:
    """Reads the rows of a manifest of a ``kind``. Raises UsageError, or what Arrow and the codec raise."""
    data = unpacked(data)
    if kind != "parquet" and data.startswith(b"PAR1"):
        raise UsageError("is Parquet, whatever its name says: give its name the extension .parquet")
    table = READERS[kind](data)
    check_columns(table.column_names)
    return Manifest(table, sum(line.strip().startswith("#") for line in _lines(data)) if kind == "txt" else 0)


def check_columns(columns: list[str]) -> None:
    """Raises UsageError where a table has no column 'uri', or one twice, with what may be meant."""
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"needs one column 'uri', and no column twice; it has {twice!r} twice, of {columns}")
    if "uri" not in columns:
        raise UsageError(f"needs one column 'uri', and no column twice; it has {columns}{_meant(columns)}")


def _meant(columns: list[str]) -> str:
    """Returns what is to be done about columns of which none is called 'uri'."""
    if len(columns) == 1 and not _OTHER.isdisjoint(columns[0]):
        return "; a .csv has commas between its columns, a .tsv tabs"
    if any(extension_of(name) in IMAGE_EXTENSIONS for name in columns):
        return "; its first line must be the names of its columns"
    near = next((name for known in _NEAR for name in columns if name.strip().lower() == known), None)
    return f"; call {near!r} 'uri'" if near is not None else ""


def unpacked(data: bytes) -> bytes:
    """Unpacks a file that is compressed by its bytes, and returns any other as it is. Raises UsageError."""
    packing = next((name for name, magic in _PACKED.items() if data.startswith(magic)), None)
    if packing is None and len(data) > 2 and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UsageError("is UTF-16; save it as UTF-8")
    if packing is None:
        foreign = kinds.foreign_bytes(data[:512])
        if foreign is not None and foreign[0] != "Parquet":
            raise UsageError(f"is {foreign[0]}, whatever its name says: {foreign[1]}")
        return data
    try:
        with _opened(packing, data) as file:
            text = file.read(MAX_UNPACKED + 1)
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise UsageError(f"cannot be unpacked: {' '.join(str(error).split())[:200]}") from error
    if len(text) > MAX_UNPACKED:
        raise UsageError(f"unpacks to more than {MAX_UNPACKED:,} bytes; give it in parts, as a folder of Parquet")
    return text


def _opened(packing: str, data: bytes) -> IO[bytes]:
    if packing == "zst":
        return pa.CompressedInputStream(reader_of(data), "zstd")
    openers: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}  # type: ignore[dict-item]  # binary by default
    return openers[packing](io.BytesIO(data))


@contextmanager
def named(place: str) -> Iterator[None]:
    """Raises what is wrong with a manifest as UsageError, with its name."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        problem = str(error).splitlines()[0]
        is_other = isinstance(error, UnicodeDecodeError) or "invalid UTF8" in problem
        problem += "; save it as UTF-8" if is_other else ""
        raise UsageError(f"cannot be read: {problem}", field="input.uri", value=place) from error
    except UsageError as error:
        raise UsageError(f": {error}", field="input.uri", value=place) from error


def resolved(column: pa.ChunkedArray, folder: str) -> pa.Array:
    """Resolves a manifest's column 'uri' against ``folder``. Raises UsageError, which names the row."""
    parts, room = [], Room()
    for first in range(0, len(column), CHUNK):
        names = column.slice(first, CHUNK).cast(pa.string()).to_pylist()
        parts.append(pa.array([_resolved(name, folder, first + row) for row, name in enumerate(names, 1)], TEXT))
        room.take(parts[-1])
    return joined(parts)


def _resolved(name: str | None, folder: str, row: int) -> str:
    if not name:
        raise UsageError(f"row {row} has no 'uri'; give one or remove the row")
    try:
        place = uris.join(folder, name)
        allow.check_web(place)
        return place
    except UsageError as error:
        raise UsageError(f"row {row}: {uris.shown(uris.without_secrets(name))!r}: {error}") from error


def kept_columns(table: pa.Table) -> pa.Table:
    """Returns a manifest's other columns. Those that have a name of ours get ``input_`` before it."""
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

    file = pq.ParquetFile(reader_of(data))
    check_columns(file.schema_arrow.names)  # before pixels are read that somebody keeps in such a table
    return file.read()


def _read_csv(data: bytes, delimiter: str = ",") -> pa.Table:
    """Reads all columns as texts, because a patient 007 is not 7, and NA may be a country."""
    from pyarrow import csv

    parsing = csv.ParseOptions(newlines_in_values=True, delimiter=delimiter)
    columns = csv.open_csv(reader_of(data), parse_options=parsing).schema.names
    converting = csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()))
    return csv.read_csv(reader_of(data), parse_options=parsing, convert_options=converting)


def _read_tsv(data: bytes) -> pa.Table:
    return _read_csv(data, "\t")


def _lines(data: bytes) -> Iterator[str]:
    end = None if b"\n" not in data else "\n"  # old ones of a Mac end lines with \r alone
    return io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=end)


def _read_txt(data: bytes) -> pa.Table:
    lines = map(str.strip, _lines(data))
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
                hint = _meant([*row]) if isinstance(row, dict) and "uri" not in row else ""
                raise UsageError(f'line {number} is not like {{"uri": "a.jpg", ...}}{hint}')
            yield row


def _column(name: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise UsageError(f"column {name!r} mixes types, or holds what no column can: {error}") from error


def _of_one_type(name: str, parts: list[pa.Array]) -> pa.ChunkedArray:
    """Joins parts of a column as if their values had been seen at once: integers become float where one is."""
    types = {part.type for part in parts} - {pa.null()}
    if len(types) > 1:
        return pa.chunked_array([_column(name, [value for part in parts for value in part.to_pylist()])])
    (kind,) = types or {pa.null()}
    return pa.chunked_array([pa.nulls(len(part), kind) if part.type == pa.null() else part for part in parts], kind)


def is_json_lines(data: bytes) -> bool:
    """Tells whether a text that is no JSON begins with a line that is."""
    return json_object_or_none(data.partition(b"\n")[0]) is not None


# ---- a folder of Parquet


def is_part(path: str) -> bool:
    """Tells whether a file below a folder of Parquet holds rows. Names of what Spark writes beside begin with ``_``.

    >>> is_part("day=2/part-0.parquet"), is_part("_delta_log/0.parquet"), is_part("_SUCCESS")
    (True, False, False)
    """
    return kind_of(path) == "parquet" and not any(part.startswith(("_", ".")) for part in path.split("/"))


def with_hive_columns(table: pa.Table, path: str) -> pa.Table:
    """Gives a part a column of texts for each folder ``name=value`` that it lies in."""
    for folder in path.split("/")[:-1]:
        name, equals, value = folder.partition("=")
        if equals and name not in table.column_names:
            text = None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)
            table = table.append_column(unquote(name), pa.array([text] * len(table), pa.string()))
    return table


def joined_parts(tables: list[pa.Table]) -> pa.Table:
    """Joins parts to a table. A column that one lacks is null there. Raises ArrowException if types differ."""
    texts = [
        table.set_column(table.column_names.index("uri"), "uri", table["uri"].cast(pa.string())) for table in tables
    ]
    return pa.concat_tables(texts, promote_options="permissive")


READERS: dict[str, Callable[[bytes], pa.Table]] = {
    "parquet": _read_parquet,
    "csv": _read_csv,
    "tsv": _read_tsv,
    "jsonl": _read_jsonl,
    "txt": _read_txt,
}
