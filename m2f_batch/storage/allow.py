"""Which places may be read and written: the allow-list of a job, that of a machine, that of the job's driver, or none.

Where there are several, a place must lie in each of them. An entry is a local folder or file, ``s3://`` (a scheme),
``s3://bucket``, ``s3://bucket/images/``, ``hf://owner/name`` (a model of the hub; ``hf://owner/name@COMMIT`` for just
that commit), and takes what lies below it, by whole segments: ``images`` is not ``images-2``. Local paths are compared
as they are once their symlinks are followed, object names as they are spelled; one with the segments ``.`` or ``..``
lies nowhere, since servers disagree about them.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from m2f_batch.errors import UsageError
from m2f_batch.storage import uris
from m2f_batch.storage.store import ObjectError

OF_MACHINE = "M2F_BATCH_ALLOW"  # entries between commas or blanks; its owner sets it, and no job can widen it
OF_DRIVER = "M2F_BATCH_ALLOW_OF_DRIVER"  # what a driver was told, for its workers: JSON, [[name, [entry, ...]], ...]
OF_JOB = "storage.allow"


class NotAllowed(ObjectError):
    """The place lies outside an allow-list: it was neither looked at nor read."""


class _Prefix(NamedTuple):
    scheme: str
    authority: str | None  # None: any
    parts: tuple[str, ...]


@dataclass(frozen=True)
class AllowList:
    """One list: where it was given, and its entries."""

    name: str
    entries: tuple[str, ...]

    @cached_property
    def prefixes(self) -> tuple[_Prefix, ...]:
        """The entries, taken apart; of local ones what is behind their links on this machine."""
        return tuple(_prefix(entry) for entry in self.entries)


_of_job: AllowList | None = None  # of the job that this process runs


@contextmanager
def confine(entries: Sequence[str] | None, places: Mapping[str, str | None]) -> Iterator[None]:
    """Meanwhile this process keeps to the list of a job, ``storage.allow``; None: to that of the machine only.

    ``places`` are the places that the job's config names, by field. Raises UsageError for entries that are none, and
    for places that lie outside. All threads keep to it: one job at a time.
    """
    global _of_job
    before = _of_job
    _of_job = None if entries is None else AllowList(OF_JOB, tuple(_spelled(OF_JOB, entry) for entry in entries))
    try:
        for field, uri in places.items():
            if uri is not None:
                check_field(field, uri)
        yield
    finally:
        _of_job = before


def check_field(field: str, uri: str) -> None:
    """Raise UsageError, which begins with ``field``, where a place lies outside; of a glob, where its folder does."""
    try:
        uris.check_unsigned(uri)
        place = uris.normalise(uri)
        folder = uris.split_glob(uri)[0] if uris.has_glob(uri) else place
        if not (is_allowed(place) or is_allowed(folder)):
            check(place)
    except (NotAllowed, UsageError) as error:
        raise UsageError(f"{field}: {error}") from None


def is_confined() -> bool:
    """Whether there is any list."""
    return bool(_lists())


def is_allowed(uri: str) -> bool:
    """Whether a place lies in every list that there is."""
    lists = _lists()
    return not lists or _outside(uri, lists) is None


def entries_of(uri: str) -> object | None:
    """What places have in common that lie in the same entry of every list; None for one that lies outside.

    All of them but a place that is an entry itself lie below all these entries.
    """
    parts, held = _entries(uri, _lists())
    if None in held:
        return None
    return (*held, *(uri for prefix in held if prefix is not None and prefix.parts == parts))


def check(uri: str) -> None:
    """Raise NotAllowed where a place lies outside a list."""
    lists = _lists()
    outside = _outside(uri, lists) if lists else None
    if outside is not None:
        raise NotAllowed(f"{uris.shown(uri)}: lies outside {outside.name}; allowed: {', '.join(outside.entries)}")


def environment() -> dict[str, str]:
    """The variable that tells other processes of a job what this one keeps to; empty where that is nothing."""
    lists = _lists()
    return {OF_DRIVER: json.dumps([(each.name, each.entries) for each in lists])} if lists else {}


def is_of_job() -> bool:
    """Whether the job has a list of its own, which workers know only from ``environment``."""
    return _of_job is not None


def _lists() -> tuple[AllowList, ...]:
    return _lists_of(_of_job, os.environ.get(OF_MACHINE), os.environ.get(OF_DRIVER))


@lru_cache(maxsize=8)
def _lists_of(ours: AllowList | None, machine: str | None, driver: str | None) -> tuple[AllowList, ...]:
    lists = [] if ours is None else [ours]
    if machine is not None:
        lists.append(AllowList(OF_MACHINE, tuple(_spelled(OF_MACHINE, entry) for entry in _split(machine))))
    lists += [AllowList(name, tuple(entries)) for name, entries in json.loads(driver or "[]")]
    return tuple(dict.fromkeys(lists))


def _split(text: str) -> list[str]:
    entries = [entry for entry in re.split(r"[\s,]+", text) if entry]
    if not entries:  # nobody meant everything by it
        raise UsageError(f"{OF_MACHINE}: is set and names no place; unset it, or give entries such as s3://bucket/a/")
    if any("://" not in entry and not entry.startswith("/") for entry in entries):
        raise UsageError(f"{OF_MACHINE}: {text!r} must hold absolute paths and URIs, between commas or blanks")
    return entries


def _spelled(name: str, entry: str) -> str:
    """An entry in the one spelling, which means the same on every machine. Raises UsageError for what is none."""
    if entry.endswith("://") and entry.removesuffix("://") in uris.SCHEMES:
        return entry
    try:
        place = uris.parse(entry)
    except UsageError as error:
        raise UsageError(f"{name}: {entry!r}: {error}") from None
    if "*" in entry or not {".", ".."}.isdisjoint(place.path.split("/")):
        raise UsageError(f"{name}: {entry!r} is no place: give folders or prefixes, which hold all below them, no '*'")
    return str(place)


def _outside(uri: str, lists: tuple[AllowList, ...]) -> AllowList | None:
    """The first list that a place does not lie in."""
    _, held = _entries(uri, lists)
    return next((each for each, prefix in zip(lists, held, strict=True) if prefix is None), None)


def _entries(uri: str, lists: tuple[AllowList, ...]) -> tuple[tuple[str, ...], list[_Prefix | None]]:
    """The segments of a place's path, and the entry of each list that it lies in."""
    place = uris.parse(uri)
    scheme, authority = place.scheme, place.authority
    parts = tuple(place.path.split("/") if scheme else os.path.realpath(place.path).strip("/").split("/"))
    if scheme and (".." in parts or "." in parts):
        return parts, [None] * len(lists)
    return parts, [
        next(
            (
                prefix
                for prefix in each.prefixes
                if prefix.scheme == scheme
                and prefix.authority in (authority, None)
                and parts[: len(prefix.parts)] == prefix.parts
            ),
            None,
        )
        for each in lists
    ]


def _prefix(entry: str) -> _Prefix:
    if entry.endswith("://"):
        return _Prefix(entry.removesuffix("://"), None, ())
    place = uris.parse(entry)
    path = place.path if place.scheme else os.path.realpath(place.path)
    trimmed = path.strip("/") if not place.scheme else path.rstrip("/")
    return _Prefix(place.scheme, place.authority, tuple(trimmed.split("/")) if trimmed else ())
