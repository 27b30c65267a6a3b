"""An opened place: list, stat, read and write whole objects, on a disk, on S3, or on any ``pyarrow.fs`` file system.

Faults are sorted here, once, by what they are wrong for: one object (``ObjectError``), this moment (``TransientError``,
after the client's own retries), everything (``StoreUnavailable``). Messages are one line, the same in every run (no
request ids, hosts or times), and never hold keys. Methods take full URIs of the store's own place, in any spelling.
"""

import contextlib
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from m2f_batch.errors import RunError
from m2f_batch.processes import in_threads
from m2f_batch.storage import uris

_T = TypeVar("_T")

OF_LENGTH = "length "  # what a version of the web begins with where its server tells no more
PAGE = 4096  # files of a ``Page`` where the store has no pages of its own
THREADS = 32  # requests in flight per call; S3 answers in some 30 ms, so about 1000 a second


class Entry(NamedTuple):
    """One stored object: ``size`` in bytes, ``version`` its ETag on S3, ``size-mtime_ns`` elsewhere."""

    uri: str
    size: int
    version: str


class Page(NamedTuple):
    """Some stored objects, by column: ``Entry.uri``, ``Entry.size`` and ``Entry.version`` of each."""

    uris: Sequence[str]
    sizes: Sequence[int]
    versions: Sequence[str]

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> "Page":
        """These objects."""
        return cls(
            [entry.uri for entry in entries], [entry.size for entry in entries], [entry.version for entry in entries]
        )

    def entries(self) -> Iterator[Entry]:
        """The same object by object."""
        return map(Entry, self.uris, self.sizes, self.versions)

    def chosen(self, is_chosen: Sequence[object]) -> "Page":
        """Some of them."""
        if all(is_chosen):
            return self
        uris, sizes, versions = ([*itertools.compress(column, is_chosen)] for column in self)
        return Page(uris, sizes, versions)  # type: ignore[arg-type]


class ObjectError(RunError):
    """Wrong for one object, and no less so a minute later. Of an image: a row. Of a run's own file: the end."""


class NotFound(ObjectError):
    """There is no such object."""


class Denied(ObjectError):
    """The object may not be read with these keys, by this user."""


class Unreadable(ObjectError):
    """The object cannot be read: a directory, an archived object, a bad block."""


class StoreUnavailable(RunError):
    """Wrong for every object of the place: no bucket, wrong or expired keys, a full disk."""


class Unreachable(StoreUnavailable):
    """No server answers at the endpoint: a wrong address, or a server that is away for a while."""


class Fenced(RunError):
    """This writer was shut out of a run, since another one has taken it over."""


class Store(ABC):
    """Whole objects of one bucket or file system; safe to share between threads, not between processes.

    Writes and deletes may name a ``staging`` folder, see ``open_staging``; only stores of files use it, and raise
    Fenced when it is gone.
    """

    is_exclusive = True  # of many racing calls of ``write_new`` or ``replace`` one wins, always

    @abstractmethod
    def list(self, folder: str, start: str = "") -> Iterator[Entry]:
        """Every file below ``folder``, in any order; only those whose path below it begins with ``start``.

        A folder that is not there lists nothing.
        """

    def pages(self, folder: str, start: str = "") -> Iterator[Page]:
        """``list``, many files at a time: where they are millions, an object for each costs more than the request."""
        entries = self.list(folder, start)
        while some := [*itertools.islice(entries, PAGE)]:
            yield Page.of(some)

    @abstractmethod
    def is_folder(self, uri: str) -> bool:
        """Whether there is such a directory, or any object below such a prefix."""

    @abstractmethod
    def stat(self, uri: str) -> Entry | None:
        """The object's size and version; None if there is no such file. Raises Denied, Unreadable."""

    @abstractmethod
    def read_entry(self, uri: str) -> tuple[bytes, Entry]:
        """The whole object and what it is, of one moment. Raises NotFound, Denied, Unreadable."""

    @abstractmethod
    def write(self, uri: str, data: bytes, *, staging: str | None = None) -> None:
        """Creates or replaces the object: readers see the old one or the new one, whole."""

    @abstractmethod
    def upload(self, file: str | os.PathLike[str], uri: str) -> None:
        """``write`` of a local file that need not fit in memory."""

    @abstractmethod
    def write_new(self, uri: str, data: bytes, *, staging: str | None = None) -> bool:
        """Creates the object, whole, if there is none; False if there is one. One of many racing writers wins."""

    @abstractmethod
    def replace(self, uri: str, data: bytes, version: str, *, staging: str | None = None) -> bool:
        """Replaces the object if it is still the one of ``version``; False if it is another, or gone."""

    @abstractmethod
    def age(self, uri: str) -> float | None:
        """Seconds since the object was written, by the store's own clock; None if there is no such object."""

    @abstractmethod
    def _delete(self, uri: str, staging: str | None) -> None:
        """Deletes one object; none there is no error."""

    def open_staging(self, folder: str) -> None:
        """Makes the folder that a writer's files come from, and takes away those of earlier writers beside it, in the
        order of their names: nothing of theirs can appear or go any more, wherever they were stopped. Raises Fenced
        where a later writer's is there. Stores that write in one request need none.
        """
        return

    def close_staging(self, folder: str) -> None:
        """Takes a writer's folder away."""
        return

    def prune(self, folder: str) -> None:
        """Removes the folder where nothing is left in it or below; stores without folders have nothing to do."""
        return

    def is_version(self, entry: Entry, version: str) -> bool:
        """Whether what was read is of a version that was listed."""
        return entry.version == version

    def read(self, uri: str) -> bytes:
        """The whole object. Raises NotFound, Denied, Unreadable."""
        return self.read_entry(uri)[0]

    def download(self, entry: Entry, file: str | os.PathLike[str]) -> bool:
        """Writes the object to a local file; False if it is not of ``entry``'s version any more. Raises as ``read``."""
        data, read = self.read_entry(entry.uri)
        with open(file, "wb") as target:
            target.write(data)
        return read.version == entry.version

    def exists(self, uri: str) -> bool:
        """Whether there is such a file."""
        return self.stat(uri) is not None

    def stat_many(self, wanted: Iterable[str]) -> Sequence[Entry | None]:
        """``stat`` of each, in order; None also for what may not be looked at."""
        return [*threaded(self._stat_or_none, wanted)]

    def delete(self, unwanted: Iterable[str], *, staging: str | None = None) -> None:
        """Deletes the objects; one that is not there is no error."""
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
    """Turns what ``sort`` knows into our errors. Not ``of_one``: what is wrong, then, is the place (lists, writes)."""
    try:
        yield
    except Exception as error:
        fault = sort(uris.shown(uri), error)
        if fault is None:
            raise
        raise (fault if of_one or not isinstance(fault, ObjectError) else StoreUnavailable(str(fault))) from error
