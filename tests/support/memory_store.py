"""A store in memory, to try thousands of orders of events: killed at any request, with a say between any two."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator

from m2f_batch.storage.store import Entry, NotFound, Store


class Killed(BaseException):
    """Nothing catches it, as nothing catches a SIGKILL."""


class MemoryStore(Store):
    """Objects by uri. ``before_write`` is called before each request that changes one; what it raises is a kill."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.before_write: Callable[[], None] = lambda: None
        self._count = itertools.count(1)

    def list(self, folder: str, start: str = "") -> Iterator[Entry]:
        top = folder.rstrip("/") + "/" + start
        return iter([self._entry(uri) for uri in sorted(self.objects) if uri.startswith(top)])

    def is_folder(self, uri: str) -> bool:
        return any(True for _ in self.list(uri))

    def stat(self, uri: str) -> Entry | None:
        return self._entry(uri) if uri in self.objects else None

    def read_entry(self, uri: str) -> tuple[bytes, Entry]:
        if uri not in self.objects:
            raise NotFound(f"{uri}: no such object")
        return self.objects[uri][0], self._entry(uri)

    def write(self, uri: str, data: bytes, *, staging: str | None = None) -> None:
        self.before_write()
        self.objects[uri] = (data, next(self._count))

    def upload(self, file: str | os.PathLike[str], uri: str, *, staging: str | None = None) -> None:
        raise NotImplementedError

    def write_new(self, uri: str, data: bytes, *, staging: str | None = None) -> bool:
        self.before_write()
        if uri in self.objects:
            return False
        self.objects[uri] = (data, next(self._count))
        return True

    def replace(self, uri: str, data: bytes, version: str, *, staging: str | None = None) -> bool:
        self.before_write()
        if uri not in self.objects or self._entry(uri).version != version:
            return False
        self.objects[uri] = (data, next(self._count))
        return True

    def age(self, uri: str) -> float | None:
        return 0.0 if uri in self.objects else None

    def delete(self, unwanted: Iterable[str], *, staging: str | None = None) -> None:
        for uri in unwanted:
            self._delete(uri, staging)

    def _delete(self, uri: str, staging: str | None) -> None:
        self.before_write()
        self.objects.pop(uri, None)

    def _entry(self, uri: str) -> Entry:
        data, number = self.objects[uri]
        return Entry(uri, len(data), str(number))
