"""Puts a store behind the allow-lists: a place outside is not asked for, and its file system is not opened."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from m2f_batch.storage import allow
from m2f_batch.storage.store import Entry, Page, Store


class GuardedStore(Store):
    """Checks the places of each call first, and raises NotAllowed. ``opened`` gives the store, once it is needed.

    A process that it is sent to opens the store anew, and keeps to its own lists, too.
    """

    def __init__(self, opened: Callable[[], Store]) -> None:
        self._opened = opened

    @property
    def is_exclusive(self) -> bool:  # type: ignore[override]  # which is of the class elsewhere
        """Answers as the store does."""
        return self._opened().is_exclusive

    def _at(self, *places: str | None) -> Store:
        for place in places:
            if place is not None:
                allow.check(place)
        return self._opened()

    def list(self, folder: str, start: str = "") -> Iterator[Entry]:
        yield from self._at(folder).list(folder, start)

    def pages(self, folder: str, start: str = "") -> Iterator[Page]:
        yield from self._at(folder).pages(folder, start)

    def is_folder(self, uri: str) -> bool:
        return self._at(uri).is_folder(uri)

    def stat(self, uri: str) -> Entry | None:
        return self._at(uri).stat(uri)

    def stat_many(self, wanted: Iterable[str]) -> Sequence[Entry | None]:
        named = [*wanted]
        # entry by entry: the store may list what places have in common, and of two entries that may lie outside both
        together: dict[object, list[str]] = {}
        for uri in dict.fromkeys(named):
            entries = allow.entries_of(uri)
            if entries is not None:
                together.setdefault(entries, []).append(uri)
        found: dict[str, Entry | None] = {}
        for inside in together.values():
            found |= zip(inside, self._opened().stat_many(inside), strict=True)
        return [found.get(uri) for uri in named]

    def read_entry(self, uri: str) -> tuple[bytes, Entry]:
        return self._at(uri).read_entry(uri)

    def download(self, entry: Entry, file: str | os.PathLike[str]) -> bool:
        return self._at(entry.uri).download(entry, file)

    def is_version(self, entry: Entry, version: str) -> bool:
        return self._at(entry.uri).is_version(entry, version)

    def write(self, uri: str, data: bytes, *, staging: str | None = None) -> None:
        self._at(uri, staging).write(uri, data, staging=staging)

    def upload(self, file: str | os.PathLike[str], uri: str, *, staging: str | None = None) -> None:
        self._at(uri, staging).upload(file, uri, staging=staging)

    def write_new(self, uri: str, data: bytes, *, staging: str | None = None) -> bool:
        return self._at(uri, staging).write_new(uri, data, staging=staging)

    def replace(self, uri: str, data: bytes, version: str, *, staging: str | None = None) -> bool:
        return self._at(uri, staging).replace(uri, data, version, staging=staging)

    def age(self, uri: str) -> float | None:
        return self._at(uri).age(uri)

    def open_staging(self, folder: str) -> None:
        self._at(folder).open_staging(folder)

    def close_staging(self, folder: str) -> None:
        self._at(folder).close_staging(folder)

    def prune(self, folder: str) -> None:
        self._at(folder).prune(folder)

    def delete(self, unwanted: Iterable[str], *, staging: str | None = None) -> None:
        named = [*unwanted]
        self._at(*named, staging).delete(named, staging=staging)

    def _delete(self, uri: str, staging: str | None) -> None:
        self.delete([uri], staging=staging)
