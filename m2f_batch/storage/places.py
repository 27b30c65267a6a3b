"""From a URI to the store that holds it, opened once per process: the one way to any, and so past the allow-lists."""

import threading
from collections.abc import Iterable
from functools import cache, partial

from m2f_batch.config.segment import S3Config
from m2f_batch.storage import allow, uris
from m2f_batch.storage.guarded import GuardedStore
from m2f_batch.storage.local import ArrowStore, LocalStore
from m2f_batch.storage.s3 import settings as s3_settings
from m2f_batch.storage.store import Entry, Store


def open_store(uri: str) -> Store:
    """The store that holds ``uri``; one per bucket or file system and process. Opening sends no request.

    With an allow-list, and for the web always, a store whose methods raise NotAllowed for what lies outside. Raises
    UsageError for a URI that names no place, or one of an unknown scheme.
    """
    place = uris.parse(uri)
    opened = partial(_opened, place.scheme, place.authority)
    return GuardedStore(opened) if allow.is_confined() or place.scheme in uris.WEB else opened()


def stat_many(wanted: Iterable[str]) -> list[Entry | None]:
    """``Store.stat_many`` over any number of places, in order."""
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


def reset_stores() -> None:
    """Forgets the opened stores, and with them the endpoint and keys they were opened with."""
    _open.cache_clear()


_OPENING = threading.Lock()


def _opened(scheme: str, authority: str) -> Store:
    with _OPENING:  # neither boto3's nor our cache makes one client only when threads race
        return _open(scheme, authority, s3_settings.current() if scheme == "s3" else None)


@cache
def _open(scheme: str, authority: str, settings: S3Config | None) -> Store:
    if settings is not None:
        from m2f_batch.storage.s3.client import new_client
        from m2f_batch.storage.s3.store import S3Store

        return S3Store(new_client(authority))
    if scheme in uris.WEB:
        from m2f_batch.storage.web.store import WebStore

        return WebStore()
    return ArrowStore(f"{scheme}://{authority}") if scheme else LocalStore()
