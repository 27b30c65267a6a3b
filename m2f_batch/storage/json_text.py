"""Parses JSON that others wrote: any text is either a value or one message, whatever its size, depth or encoding."""

import json
from typing import Any

from m2f_batch.errors import UsageError

JsonObject = dict[str, Any]

_START = 1024  # bytes, in which a binary file has a zero


def parse_json(data: bytes | str, where: str, *, field: str = "") -> Any:
    """Returns the value of a JSON text, of bytes also behind a byte order mark and in UTF-16.

    Raises UsageError of ``field``, which calls the text ``where``.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # bytes that are no text are a ValueError, too
        raise UsageError(f"{where} is not valid JSON: {_why(data, error)}", field=field) from error


def read_json_object(data: bytes | str, where: str, *, field: str = "") -> JsonObject:
    """Returns a JSON object as ``parse_json`` does. Raises UsageError for another value, too."""
    tree = parse_json(data, where, field=field)
    if not isinstance(tree, dict):
        raise UsageError(f"{where} does not hold a JSON object", field=field)
    return tree


def _why(data: bytes | str, error: Exception) -> str:
    """Says what is wrong with a text that is no JSON, in a parser's words only where it is a text."""
    if not data.strip():
        return "it is empty"
    if isinstance(data, bytes) and b"\0" in data[:_START] and json.detect_encoding(data) == "utf-8":
        return "it is a binary file, as an image is"
    return str(error)


def json_object_or_none(data: bytes | str) -> JsonObject | None:
    """Returns a JSON object, or None for any other text.

    >>> json_object_or_none('{"a": 1}'), json_object_or_none("[1]"), json_object_or_none(b"{")
    ({'a': 1}, None, None)
    """
    try:
        return read_json_object(data, "")
    except UsageError:
        return None
