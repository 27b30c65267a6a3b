"""Decides which places may be read and written, by the allow-lists of the job, of the machine and of the job's driver.

A place must lie in each list that there is. An entry is a local folder or file, ``s3://`` (a scheme), ``s3://bucket``,
``s3://bucket/images/``, ``hf://owner/name`` (a model of the hub), ``hf://owner/name@COMMIT`` (one commit of it),
``https://host/`` or ``https://host/images/``. Nothing of the web is read without such an entry. An entry takes what
lies below it, by whole segments: ``images`` is not ``images-2``. Local paths are compared after their symlinks are
followed, object names as they are spelled. A name with the segments ``.`` or ``..`` lies in no entry, because servers
disagree about them.
"""

import ipaddress
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from m2f_batch import backends
from m2f_batch.errors import UsageError
from m2f_batch.storage import uris
from m2f_batch.storage.store import ObjectError

OF_MACHINE = "M2F_BATCH_ALLOW"  # entries between commas or blanks. No job can widen it
OF_DRIVER = "M2F_BATCH_ALLOW_OF_DRIVER"  # what a driver was told, for its workers: JSON, [[name, [entry, ...]], ...]
OF_JOB = "storage.allow"
OF_LISTS = f"{OF_JOB} (or {OF_MACHINE})"

_WRITTEN = ("output.uri", "DEST")  # fields of places that are only written


class NotAllowed(ObjectError):
    """Raised for a place outside an allow-list. It was neither looked at nor read."""


class Astray(NotAllowed):
    """Raised for a URL that leads outside, by a redirect or to an address in no list. Its message is for a row."""


class _Prefix(NamedTuple):
    scheme: str
    authority: str | None  # None: any
    parts: tuple[str, ...]


@dataclass(frozen=True)
class AllowList:
    """Holds the entries of one list, and the name of where it was given.

    Where the list is for another machine (``is_elsewhere``), a local entry takes every local path, because the links of
    that machine are not known here.
    """

    name: str
    entries: tuple[str, ...]
    is_elsewhere: bool = False

    @cached_property
    def prefixes(self) -> tuple[_Prefix, ...]:
        """Returns the entries, taken apart. Links of local ones are followed on this machine."""
        return tuple(_prefix(entry, is_elsewhere=self.is_elsewhere) for entry in self.entries)


_of_job: AllowList | None = None  # of the job that this process runs
_is_elsewhere = False  # another machine will run it


@contextmanager
def confine(
    entries: Sequence[str] | None, places: Mapping[str, str | None], *, is_elsewhere: bool = False
) -> Iterator[None]:
    """Keeps this process to the list of a job, ``storage.allow``, or with None to that of the machine only.

    ``places`` are the places that the job's config names, by field. Raises UsageError for entries that are none, and
    for places that lie outside. All threads keep to it, so a process runs one job at a time. A job that another machine
    runs (``is_elsewhere``) is held to its own list only, because this machine's says nothing of that one, nor do this
    machine's links.
    """
    global _of_job, _is_elsewhere
    before = _of_job, _is_elsewhere
    _is_elsewhere = is_elsewhere
    spelled = tuple(_spelled(OF_JOB, entry) for entry in entries or ())
    _of_job = None if entries is None else AllowList(OF_JOB, spelled, is_elsewhere)
    try:
        for field, uri in places.items():
            if uri is not None:
                check_field(field, uri)
        yield
    finally:
        _of_job, _is_elsewhere = before


def check_field(field: str, uri: str) -> None:
    """Raises UsageError of ``field`` for a place that lies outside, and for a glob whose folder does."""
    try:
        uris.check_unsigned(uri)
        if field in _WRITTEN:
            uris.check_written(uri)
        place = uris.normalize(uri)
        folder = uris.split_glob(uri)[0] if uris.has_glob(uri) else place
        if not (is_allowed(place) or is_allowed(folder)):
            check(place)
    except (NotAllowed, UsageError) as error:
        raise UsageError.about(field, error) from None


def is_confined() -> bool:
    """Tells whether there is any list."""
    return bool(_lists())


def is_allowed(uri: str) -> bool:
    """Tells whether a place lies in every list that there is."""
    lists = _lists()
    return _outside(uri, lists) is None if lists else not _is_unlisted_web(uri)


def is_on_web(uri: str) -> bool:
    """Tells whether a place is a URL of the web that may be read."""
    try:
        return uris.is_web(uri) and is_allowed(uri)
    except UsageError:  # one that is none
        return False


def entries_of(uri: str) -> object | None:
    """Returns a key that is equal for two URIs if and only if the same entry of each list covers both.

    A URI that is an entry itself gets a key of its own. One that lies outside has None.
    """
    parts, held = _entries(uri, _lists())
    if None in held or not is_allowed(uri):
        return None
    return (*held, *(uri for prefix in held if prefix is not None and prefix.parts == parts))


def check(uri: str) -> None:
    """Raises NotAllowed where a place lies outside a list."""
    lists = _lists()
    if _is_unlisted_web(uri):
        raise NotAllowed(f"{uris.shown(uris.without_secrets(uri))}: {_of_web(uri)}")
    outside = _outside(uri, lists) if lists else None
    if outside is not None:
        raise NotAllowed(f"{uris.shown(uri)}: lies outside {outside.name}; allowed: {', '.join(outside.entries)}")


def hub_place(name: str, revision: str | None) -> str:
    """Returns a model of the hub as lists name it: one commit where they name that, else the whole repository."""
    pinned = f"hf://{name}@{revision}"
    return pinned if revision and is_allowed(pinned) else f"hf://{name}"


def check_web(uri: str, lists: str = OF_LISTS) -> None:
    """Raises UsageError for a URL of the web where there is no list at all, because nobody allows it then.

    ``lists`` are those that can be given where it is read.
    """
    if _is_unlisted_web(uri):
        raise UsageError(_of_web(uri, lists))


def _is_unlisted_web(uri: str) -> bool:
    """Tells whether a place is on the web and there is no list. Another machine may have one that is not known here."""
    return uris.is_web(uri) and not _is_elsewhere and not _lists()


def _of_web(uri: str, lists: str = OF_LISTS) -> str:
    add = f"add {uris.root(uri)}/ to it, and the other places of the job"
    return f"the web is read only where {lists} names the host; {add}"


def names_address(host: str, address: str) -> bool:
    """Tells whether every list names an address itself, as ``http://10.0.0.5/`` does. ``localhost`` is the loopback.

    An address that is not public may be asked only then, because whoever owns a name can let it lead anywhere.
    """
    lists = _lists()
    wanted = ipaddress.ip_address(address)
    return bool(lists) and all(
        any(_is_named(prefix, host, wanted) for prefix in each.prefixes if backends.is_web(prefix.scheme))
        for each in lists
    )


def _is_named(prefix: _Prefix, host: str, wanted: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    named = host_of(prefix.authority or "")[0]
    if named == "localhost":
        return host == "localhost" and wanted.is_loopback
    try:
        return ipaddress.ip_address(named) == wanted
    except ValueError:
        return False


def host_of(authority: str) -> tuple[str, int | None]:
    """Returns the host of a URL in lower case, an IPv6 address without brackets, and the port.

    >>> host_of("Host.org"), host_of("[::1]:8080")
    (('host.org', None), ('::1', 8080))
    """
    match = re.fullmatch(r"(?:\[(.*)\]|([^:]*))(?::(\d+))?", authority.lower())
    assert match is not None, authority  # as ``uris.parse`` leaves it
    return match[1] or match[2], int(match[3]) if match[3] else None


def environment() -> dict[str, str]:
    """Returns the variable that tells other processes of a job what this one keeps to, or nothing without a list."""
    lists = _lists()
    return {OF_DRIVER: json.dumps([(each.name, each.entries) for each in lists])} if lists else {}


def is_of_job() -> bool:
    """Tells whether the job has a list of its own, which workers know only from ``environment``."""
    return _of_job is not None


def _lists() -> tuple[AllowList, ...]:
    if _is_elsewhere:
        return () if _of_job is None else (_of_job,)
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
        raise UsageError(
            "is set and names no place", field=OF_MACHINE, hint="unset it, or give entries such as s3://bucket/a/"
        )
    if any("://" not in entry and not entry.startswith("/") for entry in entries):
        raise UsageError("must hold absolute paths and URIs, between commas or blanks", field=OF_MACHINE, value=text)
    return entries


def _spelled(name: str, entry: str) -> str:
    """Returns an entry in its one spelling, the same on every machine. Raises UsageError for other texts."""
    if entry.endswith("://") and backends.has_buckets(entry.removesuffix("://")):
        return entry
    try:
        place = uris.parse(entry)
    except UsageError as error:
        raise UsageError(f": {error}", field=name, value=entry) from None
    if place.is_web and re.search("[?#]", place.path):
        raise UsageError("has a query", field=name, value=entry, hint="give https://HOST/ or https://HOST/PREFIX/")
    if "*" in entry or not {".", ".."}.isdisjoint(place.path.split("/")):
        raise UsageError(
            "is no place: give folders or prefixes, which hold all below them, no '*'", field=name, value=entry
        )
    return str(place)


def _outside(uri: str, lists: tuple[AllowList, ...]) -> AllowList | None:
    """Returns the first list that a place does not lie in."""
    _, held = _entries(uri, lists)
    return next((each for each, prefix in zip(lists, held, strict=True) if prefix is None), None)


def _entries(uri: str, lists: tuple[AllowList, ...]) -> tuple[tuple[str, ...], list[_Prefix | None]]:
    """Returns the segments of a place's path, and the entry of each list that it lies in."""
    place = uris.parse(uri)
    scheme, authority, path = place
    if place.is_web:
        authority, path = _web_place(place)
    parts = tuple(path.split("/") if scheme else os.path.realpath(path).strip("/").split("/"))
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


def _web_place(place: uris.Location) -> tuple[str, str]:
    """Returns the host and port of a URL in one spelling, and its path, or ``..`` for dots in any disguise."""
    host, port = host_of(place.authority)
    host = f"[{host}]" if ":" in host else host
    is_plain = port is None or port == backends.port_of(place.scheme)
    path = re.split("[?#]", place.path)[0]
    decoded, last = path, ""
    while decoded != last:  # some servers decode twice
        decoded, last = unquote(decoded), decoded
    # for some servers the name ends at a semicolon
    dotted = any(part.partition(";")[0] in (".", "..") for part in re.split(r"[/\\]", decoded))
    return host if is_plain else f"{host}:{port}", ".." if dotted else path


def _prefix(entry: str, *, is_elsewhere: bool) -> _Prefix:
    if entry.endswith("://"):
        return _Prefix(entry.removesuffix("://"), None, ())
    place = uris.parse(entry)
    if not place.scheme and is_elsewhere:
        return _Prefix("", "", ())
    if place.is_web:
        place = place._replace(authority=_web_place(place)[0])
    path = place.path if place.scheme else os.path.realpath(place.path)
    trimmed = path.strip("/") if not place.scheme else path.rstrip("/")
    return _Prefix(place.scheme, place.authority, tuple(trimmed.split("/")) if trimmed else ())
