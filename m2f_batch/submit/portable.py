"""Checks that a job means the same on a cluster as here: absolute paths and URIs, and no secrets."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from m2f_batch.errors import UsageError
from m2f_batch.messages.masking import redact
from m2f_batch.storage import uris

ALLOWED = "an absolute path on storage that all nodes share, or an object-store URI"
WRITTEN = ("output.uri", "--json")  # fields of what need not be there yet
OF_MODELS = "an absolute path on storage that all nodes share, an object-store URI, or a hub id (owner/name)"


def check_portable(places: Mapping[str, str | None], models: Mapping[str, str | None] | None = None) -> None:
    """Raise UsageError of each field whose place only means something on this machine, or is none.

    ``models`` may also be ids of the hub.
    """
    given = {field: uri for field, uri in (models or {}).items() if uri is None or not is_hub_id(uri)}
    mistakes = [*_mistakes(places, ALLOWED), *_mistakes(given, OF_MODELS)]
    if mistakes:
        raise UsageError.of_all(mistakes)


def _mistakes(places: Mapping[str, str | None], allowed: str) -> Iterator[UsageError]:
    for field, uri in places.items():
        if uri is None:
            continue
        try:
            uris.parse(uri)
        except UsageError as error:
            yield UsageError.about(field, error)
            continue
        if "://" not in uri and not uri.startswith("/"):
            where = "your home" if uri.startswith("~") else "this directory"
            problem = f"is a path below {where}, which no node of the cluster has"
            is_here = field not in WRITTEN and os.path.exists(os.path.expanduser(uri))
            hint = "copy it there first" if is_here else ""
            yield UsageError(problem, field=field, value=uris.shown(uri), allowed=allowed, hint=hint)


def is_hub_id(uri: str) -> bool:
    """Tell whether a model's name is an id of the hub, and no directory here."""
    is_id = uris.HUB_ID.fullmatch(uri) is not None and not uri.startswith(".")
    return is_id and not os.path.isdir(uri)


def check_no_secrets(values: Mapping[str, Any]) -> None:
    """Raise UsageError where a value holds a key, because it could be read on the cluster, some in job metadata."""
    for name, value in values.items():
        for text in _texts(value):
            if redact(text) != text:
                hint = "keys belong to the nodes, in the variables or files that the AWS tools read, or in their role"
                problem = "holds a key, which would be seen on the cluster"
                raise UsageError(problem, field=name, value=redact(text), hint=hint)


def _texts(value: Any) -> list[str]:
    match value:
        case str():
            return [value]
        case Mapping():
            return [text for pair in value.items() for item in pair for text in _texts(item)]
        case list() | tuple() | set() | frozenset():
            return [text for item in value for text in _texts(item)]
        case _:
            return []
