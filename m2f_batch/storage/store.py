"""Defines what a store does: it lists, reads and writes whole objects of a disk, a bucket or a file system.

Faults are sorted here, once, by what they are wrong for: one object (``ObjectError``), this moment (``TransientError``,
after the client's own retries), everything (``StoreUnavailable``). Messages are one line, the same in every run (no
request ids, hosts or times), and never hold keys. Methods take full URIs of the store, in any spelling.
"""

import contextlib
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from m2f_batch.errors import RunError, TransientError
from m2f_batch.processes import in_threads
from m2f_batch.storage import uris

_T = TypeVar("_T")

OF_LENGTH = "length "  # what a version of the web begins with where its server tells no more
PAGE = 4096  # files of a ``Page`` where the store has no pages of its own
_DENIED = frozenset({401, 403, 407, 451})
_PASSING = frozenset({408, 425, 429})
THREADS = 32  # requests in flight per call: S3 answers in some 30 ms, so about 1000 a second


class Entry(NamedTuple):
    """Describes a stored object: ``size`` in bytes, ``version`` its ETag on S3, ``size-mtime_ns`` elsewhere."""

    uri: str
    size: int
    version: str


class Page(NamedTuple):
    """Describes many stored objects by column: ``Entry.uri``, ``Entry.size`` and ``Entry.version`` of each."""

    uris: Sequence[str]
    sizes: Sequence[int]
    versions: Sequence[str]

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> "Page":
        """Makes a page of these objects."""
        return cls(
            [entry.uri for entry in entries], [entry.size for entry in entries], [entry.version for entry in entries]
        )

    def entries(self) -> Iterator[Entry]:
        """Yields the same object by object."""
        return map(Entry, self.uris, self.sizes, self.versions)

    def chosen(self, is_chosen: Sequence[object]) -> "Page":
        """Returns those that are chosen."""
        if all(is_chosen):
            return self
        uris, sizes, versions = ([*itertools.compress(column, is_chosen)] for column in self)
        return Page(uris, sizes, versions)  # type: ignore[arg-type]


class ObjectError(RunError):
    """Raised for what is wrong with one object, also a minute later. It becomes an image's row, or ends a run."""


class NotFound(ObjectError):
    """Raised where there is no such object."""


class Denied(ObjectError):
    """Raised where an object may not be read with these keys, by this user."""


class Unreadable(ObjectError):
    """Raised where an object cannot be read: a directory, an archived object, a bad block."""


class StoreUnavailable(RunError):
    """Raised for what is wrong with every object of a place: no bucket, wrong or expired keys, a full disk."""


class Unreachable(StoreUnavailable):
    """Raised where no server answers: the address is wrong, or the server is away for a while."""


class Fenced(RunError):
    """Raised where this writer was shut out of a run, because another one has taken it over."""


class Store(ABC):
    """Holds the objects of one bucket or file system. Threads may share it, processes may not.

    Writes and deletes may name a ``staging`` folder, see ``open_staging``. Only stores of files use it, and raise
    Fenced when it is gone.
    """

    is_exclusive = True  # of many racing calls of ``write_new`` or ``replace`` one wins, always

    @abstractmethod
    def list(self, folder: str, start: str = "") -> Iterator[Entry]:
        """Yields the files below ``folder`` whose path below it begins with ``start``, in any order.

        A folder that is not there lists nothing.
        """

    def pages(self, folder: str, start: str = "") -> Iterator[Page]:
        """Lists many files at a time, because an object for each of millions costs more than the request."""
        entries = self.list(folder, start)
        while some := [*itertools.islice(entries, PAGE)]:
            yield Page.of(some)

    @abstractmethod
    def is_folder(self, uri: str) -> bool:
        """Tells whether there is such a directory, or any object below such a prefix."""

    @abstractmethod
    def stat(self, uri: str) -> Entry | None:
        """Returns the object's size and version, None if there is no such file. Raises Denied, Unreadable."""

    @abstractmethod
    def read_entry(self, uri: str) -> tuple[bytes, Entry]:
        """Reads the whole object and what it is, of one moment. Raises NotFound, Denied, Unreadable."""

    @abstractmethod
    def write(self, uri: str, data: bytes, *, staging: str | None = None) -> None:
        """Creates or replaces the object: readers see the old one or the new one, whole."""

    @abstractmethod
    def upload(self, file: str | os.PathLike[str], uri: str, *, staging: str | None = None) -> None:
        """Writes a local file that need not fit in memory, as ``write`` does."""

    @abstractmethod
    def write_new(self, uri: str, data: bytes, *, staging: str | None = None) -> bool:
        """Creates the object, whole, unless there is one (False). One of many racing writers wins."""

    @abstractmethod
    def replace(self, uri: str, data: bytes, version: str, *, staging: str | None = None) -> bool:
        """Replaces the object if it is still the one of ``version``, and returns whether it was."""

    @abstractmethod
    def age(self, uri: str) -> float | None:
        """Returns the seconds since the object was written, by the store's own clock, or None if there is none."""

    @abstractmethod
    def _delete(self, uri: str, staging: str | None) -> None:
        """Deletes one object, if there is one."""

    def open_staging(self, folder: str) -> None:
        """Makes the folder that a writer's files come from, and removes those of earlier writers beside it by name.

        Nothing of theirs can appear or go any more then, wherever they were stopped. Raises Fenced where a later
        writer's is there. Stores that write in one request need none.
        """
        return

    def close_staging(self, folder: str) -> None:
        """Removes a writer's folder."""
        return

    def prune(self, folder: str) -> None:
        """Removes the folder where nothing is left in it or below. Stores without folders do nothing."""
        return

    def is_version(self, entry: Entry, version: str) -> bool:
        """Tells whether what was read is of a version that was listed."""
        return entry.version == version

    def read(self, uri: str) -> bytes:
        """Reads the whole object. Raises NotFound, Denied, Unreadable."""
        return self.read_entry(uri)[0]

    def download(self, entry: Entry, file: str | os.PathLike[str]) -> bool:
        """Writes the object to a local file. Returns whether its version is still ``entry``'s. Raises as ``read``."""
        data, read = self.read_entry(entry.uri)
        with open(file, "wb") as target:
            target.write(data)
        return read.version == entry.version

    def exists(self, uri: str) -> bool:
        """Tells whether there is such a file."""
        return self.stat(uri) is not None

    def stat_many(self, wanted: Iterable[str]) -> Sequence[Entry | None]:
        """Returns ``stat`` of each, in order, and None also for what may not be looked at."""
        return [*threaded(self._stat_or_none, wanted)]

    def delete(self, unwanted: Iterable[str], *, staging: str | None = None) -> None:
        """Deletes those objects that are there."""
        for _ in threaded(partial(self._delete, staging=staging), unwanted):
            pass

    def _stat_or_none(self, uri: str) -> Entry | None:
        try:
            return self.stat(uri)
        except ObjectError:
            return None


def threaded(act: Callable[[str], _T], wanted: Iterable[str], threads: int = THREADS) -> Iterator[_T]:
    """Yields what ``act`` returns for each, in order, from threads, some thousand ahead."""
    return (done for _, done in in_threads(act, wanted, threads, 100 * threads))


@contextlib.contextmanager
def faults(uri: str, sort: Callable[[str, Exception], Exception | None], *, of_one: bool = True) -> Iterator[None]:
    """Turns what ``sort`` knows into our errors. Of lists and writes, not ``of_one``, the whole place is wrong."""
    try:
        yield
    except Exception as error:
        fault = sort(uris.shown(uri), error)
        if fault is None:
            raise
        raise (fault if of_one or not isinstance(fault, ObjectError) else StoreUnavailable(str(fault))) from error


def http_fault(uri: str, status: int) -> Exception:
    """Returns our error for a status with which an HTTP server refuses a file."""
    if status in (404, 410):
        return NotFound(f"{uri}: no such file (HTTP {status})")
    if status in _DENIED:
        return Denied(f"{uri}: access denied (HTTP {status})")
    if status in _PASSING or (status >= 500 and status != 501):
        return TransientError(f"{uri}: HTTP {status}")
    return Unreadable(f"{uri}: HTTP {status}")
