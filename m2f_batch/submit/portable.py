"""Checks that a job means the same on a cluster as here: absolute paths and URIs, and no secrets."""

import os
from collections.abc import Mapping
from typing import Any

from m2f_batch.errors import UsageError
from m2f_batch.messages.masking import redact
from m2f_batch.storage import uris

ALLOWED = "allowed: an absolute path on storage that all nodes share, or an object-store URI"


def check_portable(places: Mapping[str, str | None], models: Mapping[str, str | None] | None = None) -> None:
    """Raise UsageError, with a line for each field whose place only means something on this machine, or is none.

    ``models`` may also be ids of the hub.
    """
    problems = [_place(field, uri) for field, uri in places.items() if uri is not None]
    problems += [_model(field, uri) for field, uri in (models or {}).items() if uri is not None]
    if any(problems):
        raise UsageError("\n".join(problem for problem in problems if problem))


def _place(field: str, uri: str) -> str | None:
    try:
        uris.parse(uri)
    except UsageError as error:
        return f"{field}: {error}"
    if "://" in uri or uri.startswith("/"):
        return None
    where = "your home" if uri.startswith("~") else "this directory"
    return f"{field}: {uris.shown(uri)!r} is a path below {where}, which no node of the cluster has; {ALLOWED}"


def _model(field: str, uri: str) -> str | None:
    return None if is_hub_id(uri) else _place(field, uri)


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
