"""Writes what a command found as JSON, for machines: to a file anywhere, or to stdout."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from m2f_batch.messages.terminal import say_json
from m2f_batch.result import STDOUT


def json_writer(
    file: str | None, *, run: str | None = None, read: Iterable[str | None] = (), indent: int = 2, to_ascii: bool = True
) -> Callable[[Mapping[str, Any]], None]:
    """Return what writes one object to ``file`` (``--json``), ``-`` for stdout, or nothing where no file is given.

    ``run`` and ``read``: the run directory and the files that the command reads. Raises UsageError, before anything is
    measured, for a file that cannot be written, or is one of those.
    """
    if file is None:
        return lambda document: None
    if file == STDOUT:
        return say_json
    from m2f_batch.storage.places import writable_file

    place = writable_file(file, "--json", run=run, read=read)

    def write(document: Mapping[str, Any]) -> None:
        text = json.dumps(document, indent=indent, ensure_ascii=to_ascii)
        place.store.write(place.uri, f"{text}\n".encode())

    return write
