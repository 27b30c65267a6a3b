"""Reads and writes the files of this machine's disks."""

import contextlib
import errno
import io
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

from pyarrow import ArrowException

from m2f_batch.errors import TransientError
from m2f_batch.storage import allow, uris
from m2f_batch.storage.staging import close_folder, delete_file, open_folder, temporary_file
from m2f_batch.storage.store import Denied, Entry, NotFound, Store, StoreUnavailable, Unreadable, faults

_CHUNK = 1 << 20  # bytes copied at a time
SETTLED_SECONDS = 60.0  # after the last write, a size that is not what a file gives is no write under way


def version(size: int, mtime_ns: int | None) -> str:
    """Returns the version of a file of a disk, or of a store that tells no ETags."""
    return f"{size}-{mtime_ns or 0}"


_PASSING_ERRNO = {
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    *(errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE),
}
_FULL_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def file_fault(uri: str, error: Exception) -> Exception | None:
    """Returns our error for one of the operating system's or of Arrow, None for any other."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound(f"{uri}: no such file")
    if isinstance(error, PermissionError):
        return Denied(f"{uri}: permission denied")
    if not isinstance(error, OSError | ArrowException):
        return None
    number = getattr(error, "errno", None)
    name = errno.errorcode.get(number, "errno") if number else type(error).__name__
    if number in _FULL_ERRNO:
        what = "the disk may only be read" if number == errno.EROFS else "no space left"
        return StoreUnavailable(f"{uri}: {what} ({name}); mend that, and the same command goes on")
    # without a number it is some other store's client, whose lost servers look the same as anything else
    passing = number in _PASSING_ERRNO or (number is None and isinstance(error, OSError))
    return TransientError(f"{uri}: {name}") if passing else Unreadable(f"{uri}: {name}")


def _knows_no_size(before: os.stat_result, after: os.stat_result) -> bool:
    """Tells whether a file gives bytes and says 0, before and after, as mounts of some cloud drives do."""
    return before.st_size == after.st_size == 0 and before.st_mtime_ns == after.st_mtime_ns


def _is_settled(before: os.stat_result, after: os.stat_result) -> bool:
    """Tells whether a file was the same before and after it was read, and nobody has written it for a while."""
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    return same and time.time() - after.st_mtime > SETTLED_SECONDS


class LocalStore(Store):
    """Holds this machine's files. Symlinks are followed, except loops and those that leave the allow-lists."""

    def list(self, folder: str, start: str = "") -> Iterator[Entry]:
        with faults(folder, file_fault, of_one=False):
            yield from self._walk(_local(folder), start, ())

    def _walk(self, folder: str, start: str, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
        try:
            here = os.stat(folder)
            files = [*os.scandir(folder)]
        except FileNotFoundError:
            return
        if (here.st_dev, here.st_ino) in above:
            return
        for file in files:
            if not file.name.startswith(start):
                continue
            if file.is_symlink() and not allow.is_allowed(file.path):  # listed, and not looked behind
                yield Entry(file.path, 0, "")
                continue
            if file.is_dir():
                yield from self._walk(file.path, "", (*above, (here.st_dev, here.st_ino)))
                continue
            with contextlib.suppress(FileNotFoundError):  # vanished since, unless it is a link to nothing: listed
                info = file.stat(follow_symlinks=os.path.exists(file.path))
                if stat.S_ISREG(info.st_mode):
                    yield _local_entry(file.path, info)
                elif stat.S_ISLNK(info.st_mode):
                    yield Entry(file.path, 0, "")

    def is_folder(self, uri: str) -> bool:
        return os.path.isdir(_local(uri))

    def stat(self, uri: str) -> Entry | None:
        path = _local(uri)
        with faults(path, file_fault):
            try:
                info = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            return _local_entry(path, info) if stat.S_ISREG(info.st_mode) else None

    def stat_many(self, wanted: Iterable[str]) -> Sequence[Entry | None]:
        return [self._stat_or_none(uri) for uri in wanted]

    def read_entry(self, uri: str) -> tuple[bytes, Entry]:
        path = _local(uri)
        with faults(path, file_fault):
            before = os.stat(path)
            if not stat.S_ISREG(before.st_mode):  # opening a pipe would wait for its writer
                what = "is a folder, not a file" if stat.S_ISDIR(before.st_mode) else "not a regular file"
                raise Unreadable(f"{uris.shown(path)}: {what}")
            with open(path, "rb") as file:
                data = file.read()
                info = os.fstat(file.fileno())  # after the read: what was written meanwhile shows
        if len(data) != info.st_size and not _knows_no_size(before, info):
            if _is_settled(before, info):
                raise Unreadable(f"{uris.shown(path)}: gives {len(data)} bytes, and its size is {info.st_size}")
            raise TransientError(f"{uris.shown(path)}: being written")
        return data, _local_entry(path, info)

    def write(self, uri: str, data: bytes, *, staging: str | None = None) -> None:
        self._replace(uri, io.BytesIO(data), staging)

    def upload(self, file: str | os.PathLike[str], uri: str, *, staging: str | None = None) -> None:
        with open(file, "rb") as source:
            self._replace(uri, source, staging)

    def _replace(self, uri: str, source: IO[bytes], staging: str | None) -> None:
        path = _local(uri)
        with (
            faults(path, file_fault, of_one=False),
            temporary_file(path, source, staging and _local(staging)) as temporary,
        ):
            os.replace(temporary, path)

    def write_new(self, uri: str, data: bytes, *, staging: str | None = None) -> bool:
        path = _local(uri)
        with (
            faults(path, file_fault, of_one=False),
            temporary_file(path, io.BytesIO(data), staging and _local(staging)) as temporary,
        ):
            try:
                os.link(temporary, path)
            except FileExistsError:
                # a network disk may lose the answer and ask again: then it is ours, with two names
                return os.stat(temporary).st_nlink == 2
        return True

    def replace(self, uri: str, data: bytes, version: str, *, staging: str | None = None) -> bool:
        path = _local(uri)
        with (
            faults(path, file_fault, of_one=False),
            temporary_file(path, io.BytesIO(data), staging and _local(staging)) as temporary,
        ):
            there = self.stat(path)  # nothing but ``staging`` keeps others from replacing it meanwhile
            if there is None or there.version != version:
                return False
            os.replace(temporary, path)
        return True

    def age(self, uri: str) -> float | None:
        path = _local(uri)
        with faults(path, file_fault):
            try:
                written = os.stat(path).st_mtime
            except FileNotFoundError:
                return None
            with temporary_file(path, io.BytesIO(b""), None) as temporary:
                return os.stat(temporary).st_mtime - written

    def open_staging(self, folder: str) -> None:
        with faults(folder, file_fault, of_one=False):
            open_folder(_local(folder))

    def close_staging(self, folder: str) -> None:
        with faults(folder, file_fault, of_one=False):
            close_folder(_local(folder))

    def prune(self, folder: str) -> None:
        for path, _, _ in os.walk(_local(folder), topdown=False):
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(path)

    def _delete(self, uri: str, staging: str | None) -> None:
        with faults(uri, file_fault, of_one=False):
            delete_file(_local(uri), staging and _local(staging))


def open_store(scheme: str, authority: str) -> LocalStore:
    """Returns the store of all disks."""
    return LocalStore()


def _local(uri: str) -> str:
    return uris.parse(uri).path


def _local_entry(path: str, info: os.stat_result) -> Entry:
    return Entry(path, info.st_size, version(info.st_size, info.st_mtime_ns))
