"""Opens the store for a URI, once per process. Every access goes through here, so none escapes the allow-lists."""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial

from m2f_batch.backends import Backend, find_backend, load
from m2f_batch.errors import UsageError
from m2f_batch.storage import allow, uris
from m2f_batch.storage.guarded import GuardedStore
from m2f_batch.storage.store import Entry, ObjectError, Store, StoreUnavailable

OF_RUN = ("run.json", "_SUCCESS", "_state", "annotations")  # what a run directory consists of


@dataclass(frozen=True)
class Place:
    """Names a file or a folder by its URI in the one spelling, with the store that holds it."""

    uri: str
    store: Store


def open_store(uri: str) -> Store:
    """Returns the store that holds ``uri``, one per bucket or file system and process. Opening sends no request.

    With an allow-list, and for the web always, its methods raise NotAllowed for what lies outside. Raises UsageError
    for a URI that names no place, or one of an unknown scheme.
    """
    return _store_of(uris.parse(uri))


def open_place(uri: str) -> Place:
    """Parses ``uri`` and opens its store, as ``open_store`` does. Raises UsageError."""
    location = uris.parse(uri)
    return Place(str(location), _store_of(location))


def _store_of(location: uris.Location) -> Store:
    opened = partial(_opened, location.scheme, location.authority)
    return GuardedStore(opened) if allow.is_confined() or location.is_web else opened()


def stat_many(wanted: Iterable[str]) -> list[Entry | None]:
    """Asks ``Store.stat_many`` of any number of places, in order."""
    listed = list(wanted)
    by_root: dict[str, list[int]] = {}
    for index, uri in enumerate(listed):
        by_root.setdefault(uris.root(uri), []).append(index)
    found: list[Entry | None] = [None] * len(listed)
    for indices in by_root.values():
        store = open_store(listed[indices[0]])
        for index, entry in zip(indices, store.stat_many(listed[index] for index in indices), strict=True):
            found[index] = entry
    return found


_OPENING = threading.Lock()


def _opened(scheme: str, authority: str) -> Store:
    settings = _backend(scheme).settings
    with _OPENING:  # neither boto3's nor our cache makes one client only when threads race
        return _open(scheme, authority, load(settings)() if settings else None)


@cache
def _open(scheme: str, authority: str, settings: object) -> Store:
    store: Store = load(_backend(scheme).opener)(scheme, authority)
    return store


def _backend(scheme: str) -> Backend:
    """Returns the kind of store of a scheme that ``uris.parse`` has let pass."""
    backend = find_backend(scheme)
    assert backend is not None, scheme
    return backend


# ---- places that a command writes


def writable_file(dest: str, field: str, *, run: str | None = None, read: Iterable[str | None] = ()) -> Place:
    """Returns the file that a command may write. ``run`` is the run directory that it reads, ``read`` other files.

    Raises UsageError of ``field`` where it can be no file, or would take the place of one of those.
    """
    place = writable_place(dest, field)
    with _of_field(field):
        if dest.endswith("/") or place.store.is_folder(place.uri):
            raise UsageError("is a folder", value=dest, hint="give the name of a file in it")
        _check_above(dest, place.uri)
    if run is not None and any(uris.is_inside(place.uri, f"{run}/{name}") for name in OF_RUN):
        raise UsageError("is a part of the run itself", field=field, value=dest, hint="give another place")
    if any(each is not None and _is_same(place.uri, each) for each in read):
        raise UsageError("is what is read", field=field, value=dest, hint="give another name")
    return place


def writable_folder(dest: str, field: str, *, is_new: bool = False) -> Place:
    """Returns the folder that a command may write. ``is_new``: it must hold no file.

    Raises UsageError of ``field`` where it can be no folder, or holds what it must not.
    """
    place = writable_place(dest, field)
    with _of_field(field):
        is_file = place.store.stat(place.uri) is not None
        is_empty = is_file or not is_new or next(place.store.list(place.uri), None) is None
    if is_file:
        raise UsageError("is a file", field=field, value=dest, hint="give a directory")
    if not is_empty:
        raise not_empty(dest, field)
    return place


def writable_place(dest: str, field: str) -> Place:
    """Returns the place that a command may write, without a look at it. Raises UsageError of ``field``."""
    with _of_field(field):
        uris.check_unsigned(dest)
        uri = uris.normalize(dest).rstrip("/") or "/"
        uris.check_written(uri)
        allow.check(uri)
        return Place(uri, open_store(uri))


def not_empty(dest: str, field: str) -> UsageError:
    """Returns the error of a folder that must be new or empty, and is not."""
    return UsageError("is not empty", field=field, value=dest, hint=f"remove it, or choose another {field}")


@contextmanager
def _of_field(field: str) -> Iterator[None]:
    """Raises what is wrong with a place as a mistake in ``field``."""
    try:
        yield
    except (UsageError, ObjectError, StoreUnavailable) as error:
        raise UsageError.about(field, error) from None


def _is_same(place: str, other: str) -> bool:
    try:
        return uris.is_inside(place, other) and uris.is_inside(other, place)
    except UsageError:
        return False  # of no place, which is said where it is read


def _check_above(dest: str, place: str) -> None:
    """Raises UsageError where what should be a folder above a local file is a file."""
    above = os.path.dirname(place)
    while not uris.root(place) and above and not os.path.exists(above):
        above = os.path.dirname(above)
    if not uris.root(place) and not os.path.isdir(above):
        raise UsageError(f": {above!r} is a file", value=dest, hint="give a folder")
