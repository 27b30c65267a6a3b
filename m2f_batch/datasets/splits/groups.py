r"""Groups images that must stay in one split: by folder, by a match of a pattern, or by a value in a table.

folder               the folder that holds the image
pattern:REGEX        the one group of a regular expression that is searched in the uri: pattern:patient(\d+)
column:NAME          a column of a table (CSV, Parquet, JSON lines) with a column "uri" or "file_name"
"""

import posixpath
import re
from collections.abc import Sequence

import pyarrow as pa

from m2f_batch.datasets import files
from m2f_batch.errors import UsageError
from m2f_batch.inputs.manifests import READERS
from m2f_batch.storage import uris

_FORMS = "folder, pattern:REGEX with one group, or column:NAME of a table"


def group_keys(images: Sequence[str], group_by: str, table: str | None = None, field: str = "--group-by") -> list[str]:
    """Returns the group of each of ``images``, uris in the one spelling. Raises UsageError where one has none.

    >>> group_keys(["/a/p1-x.png", "/a/p1-y.png", "/b/p2.png"], r"pattern:(p\\d)")
    ['p1', 'p1', 'p2']
    """
    kind, _, rest = group_by.partition(":")
    if (kind == "column") != (table is not None):
        raise UsageError(": a table of groups goes with column:NAME, and only with it", field=field, value=group_by)
    if group_by == "folder":
        return [uris.parent(image) for image in images]
    if kind == "pattern":
        return _by_pattern(images, rest, field)
    if kind == "column" and table is not None:
        return _by_column(images, rest, uris.normalize(table), field)
    raise UsageError("is not known", field=field, value=group_by, allowed=_FORMS)


def _by_pattern(images: Sequence[str], text: str, field: str) -> list[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"is no regular expression: {error}", field=field, value=text) from error
    if pattern.groups != 1:
        raise UsageError(f"must have one group, as in patient(\\d+); it has {pattern.groups}", field=field, value=text)
    keys = []
    for image in images:
        match = pattern.search(image)
        if match is None or match[1] is None:
            raise UsageError(f"finds nothing in {image!r}; every image needs a group", field=field, value=text)
        keys.append(match[1])
    return keys


def _by_column(images: Sequence[str], column: str, table: str, field: str) -> list[str]:
    rows = _read_table(table)
    by = next((name for name in ("uri", "file_name") if name in rows.column_names), None)
    if by is None or column not in rows.column_names:
        raise UsageError(
            f"needs columns {column!r} and 'uri' or 'file_name'; has {rows.column_names}", field=field, value=table
        )
    values: dict[str, str] = {}
    for name, value in zip(rows[by].to_pylist(), rows[column].to_pylist(), strict=True):
        if name in (None, "") or value in (None, ""):
            raise UsageError(
                f": {by} {name!r} has {column} {value!r}; every image needs a group", field=field, value=table
            )
        key = str(name).removeprefix("./")
        if values.setdefault(key, str(value)) != str(value):
            raise UsageError(
                f": {name!r} is in two groups, {values[key]!r} and {str(value)!r}", field=field, value=table
            )
    taken: dict[str, str] = {}
    keys = []
    for image in images:
        tail = _tail(image, values, uris.parent(table))
        if tail is None:
            raise UsageError(f"does not have {image!r}; every image needs a group", field=field, value=table)
        if taken.setdefault(tail, image) != image:
            raise UsageError(
                f": {tail!r} may be {taken[tail]!r} or {image!r}", field=field, value=table, hint="give longer names"
            )
        keys.append(values[tail])
    return keys


def _tail(image: str, values: dict[str, str], folder: str) -> str | None:
    """The name by which a table has an image: whole, relative to the table, or as the end of its path."""
    parts = image.split("/")
    names = [image, uris.below(folder, image), *("/".join(parts[start:]) for start in range(1, len(parts)))]
    return next((name for name in names if name in values), None)


def _read_table(table: str) -> pa.Table:
    extension = posixpath.splitext(table)[1].removeprefix(".").lower()
    if extension not in READERS:
        raise UsageError(f"is no table; read are {', '.join(sorted(READERS))}", field="--groups", value=table)
    try:
        return READERS[extension](files.read_bytes(table, "--groups"))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read: {str(error).splitlines()[0]}", field="--groups", value=table) from error
