"""Writes what a command found as JSON, for machines: to a file anywhere, or to stdout."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from m2f_batch.errors import UsageError
from m2f_batch.messages.terminal import say_json
from m2f_batch.result import STDOUT
from m2f_batch.storage.json_text import json_object_or_none

if TYPE_CHECKING:
    from m2f_batch.runs.reader import Run
    from m2f_batch.storage.places import Place


def json_writer(
    file: str | None,
    keys: Iterable[str],
    *,
    run: "Run | None" = None,
    read: Iterable[str | None] = (),
    indent: int = 2,
    to_ascii: bool = True,
) -> Callable[[Mapping[str, Any]], None]:
    """Return what writes one object to ``file`` (``--json``), ``-`` for stdout, or nothing where no file is given.

    ``run`` and ``read``: the run, and the files and folders of annotations, that the command reads. Raises UsageError,
    before anything is measured, for a file that cannot be written, or is one of those. In a folder of annotations only
    an earlier object is replaced, which has ``keys``.
    """
    if file is None:
        return lambda document: None
    if file == STDOUT:
        return say_json
    from m2f_batch.storage.places import writable_file

    known = [each for each in read if each is not None]
    place = writable_file(file, "--json", run=None if run is None else run.uri, read=known)
    if run is not None:
        run.check_not_listed(place.uri, file, "--json")
    if any(_is_in(place.uri, each) for each in known) and not _is_free(place, keys):
        raise UsageError("is among what is read", field="--json", value=file, hint="give another name")

    def write(document: Mapping[str, Any]) -> None:
        text = json.dumps(document, indent=indent, ensure_ascii=to_ascii)
        place.store.write(place.uri, f"{text}\n".encode())

    return write


def _is_in(place: str, other: str) -> bool:
    from m2f_batch.storage.uris import is_inside

    try:
        return is_inside(place, other)
    except UsageError:
        return False  # of no place, such as names that are given themselves


def _is_free(place: "Place", keys: Iterable[str]) -> bool:
    """Return whether nothing is there, or an object that has these keys."""
    if place.store.stat(place.uri) is None:
        return True
    found = json_object_or_none(place.store.read(place.uri))
    return found is not None and {*keys} <= found.keys()
