"""Reads and writes the files of any ``pyarrow.fs`` file system."""

import contextlib
import io
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from typing import IO

from pyarrow import ArrowInvalid, fs

from m2f_batch.errors import TransientError, UsageError
from m2f_batch.storage import uris
from m2f_batch.storage.local import file_fault as os_fault
from m2f_batch.storage.local import version
from m2f_batch.storage.store import Denied, Entry, Store, StoreUnavailable, Unreachable, faults, http_fault

_CHUNK = 1 << 20  # bytes copied at a time
# Google's client tries again for 15 minutes by itself, in which nothing stops it and nobody is told.
_GOOGLE_OPTIONS = "?retry_limit_seconds=20"
_GOOGLE = re.compile(r"google::cloud::Status\((\w+)")
# no proxy, host, connection or TLS, by the numbers of curl, or nothing that gives a token
_GOOGLE_AWAY = re.compile(r"CURL error \[(?:5|6|7|35|60)\]|OAuth ?2 access token")
_GOOGLE_KEYS = "gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS=FILE"


def open_store(scheme: str, authority: str) -> "ArrowStore":
    """Returns the store of a file system. Raises UsageError, StoreUnavailable."""
    root = f"{scheme}://{authority}"
    try:
        return ArrowStore(*fs.FileSystem.from_uri(f"{root}/{_GOOGLE_OPTIONS if scheme in ('gs', 'gcs') else ''}"))
    except (ArrowInvalid, ValueError) as error:
        raise UsageError(f"{root}: pyarrow.fs cannot open it: {str(error).splitlines()[0]}") from error
    except (OSError, ImportError) as error:
        raise StoreUnavailable(f"{root}: {str(error).splitlines()[0]}") from error


def file_fault(uri: str, error: Exception) -> Exception | None:
    """Returns our error for one that a file system raises: of the hub also those of its HTTP client.

    The hub's own refusals are OSErrors without a number, and hold the server's response.
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int) and isinstance(error, OSError):
        return http_fault(uri, status)
    hub = sys.modules.get("huggingface_hub.errors")
    if hub is not None and isinstance(error, hub.HTTPError) and not isinstance(error, OSError):
        reason = "".join(f": {line}" for line in str(error).splitlines()[:1])
        return TransientError(f"{uri}: {type(error).__name__}: the hub cannot be reached{reason}")
    status_of_google = _GOOGLE.search(str(error)) if isinstance(error, OSError) else None
    return _google_fault(uri, status_of_google[1], str(error)) if status_of_google else os_fault(uri, error)


def _google_fault(uri: str, status: str, text: str) -> Exception:
    """Return our error for one of Google's client, which has a name of its own for what a server answers."""
    if _GOOGLE_AWAY.search(text):
        problem = "cannot be reached, or gives no access token"
        return Unreachable(f"{uri}: Google Cloud Storage {problem}; check the network and the keys ({_GOOGLE_KEYS})")
    if status == "UNAUTHENTICATED":
        return StoreUnavailable(f"{uri}: Google Cloud Storage does not take the keys; check them ({_GOOGLE_KEYS})")
    return Denied(f"{uri}: permission denied") if status == "PERMISSION_DENIED" else TransientError(f"{uri}: {status}")


class ArrowStore(Store):
    """Holds the files of a ``pyarrow.fs`` file system. Two racing ``write_new`` may both win: it looks, then writes."""

    is_exclusive = False

    def __init__(self, files: fs.FileSystem, base: str = "") -> None:
        self._files, self._base = files, base  # the path that stands before all names in ``files``

    def _path(self, uri: str) -> str:
        name = uris.parse(uri).path
        return (f"{self._base.rstrip('/')}/{name}" if self._base else name).rstrip("/")

    def _entry(self, uri: str, info: fs.FileInfo) -> Entry:
        return Entry(uri, info.size or 0, version(info.size or 0, info.mtime_ns))

    def list(self, folder: str, start: str = "") -> Iterator[Entry]:
        base = self._path(folder).strip("/")
        with faults(folder, file_fault, of_one=False):
            found = self._files.get_file_info(fs.FileSelector(self._path(folder), allow_not_found=True, recursive=True))
        for info in found:
            name = uris.below(base, info.path.lstrip("/"))
            if info.type == fs.FileType.File and name.startswith(start):
                yield self._entry(f"{folder.rstrip('/')}/{name}", info)

    def is_folder(self, uri: str) -> bool:
        with faults(uri, file_fault, of_one=False):
            return bool(self._files.get_file_info(self._path(uri)).type == fs.FileType.Directory)

    def stat(self, uri: str) -> Entry | None:
        with faults(uri, file_fault):
            info = self._files.get_file_info(self._path(uri))
        return self._entry(uri, info) if info.type == fs.FileType.File else None

    def read_entry(self, uri: str) -> tuple[bytes, Entry]:
        with faults(uri, file_fault):
            with self._files.open_input_stream(self._path(uri)) as file:
                data = file.read()
            entry = self.stat(uri)
        if entry is None or entry.size != len(data):
            raise TransientError(f"{uris.shown(uri)}: {len(data)} bytes came")
        return data, entry

    def write(self, uri: str, data: bytes, *, staging: str | None = None) -> None:
        self._replace(uri, io.BytesIO(data))

    def upload(self, file: str | os.PathLike[str], uri: str, *, staging: str | None = None) -> None:
        with open(file, "rb") as source:
            self._replace(uri, source)

    def _replace(self, uri: str, source: IO[bytes]) -> None:
        path = self._path(uri)
        folder, _, name = path.rpartition("/")
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex}.tmp"
        with faults(uri, file_fault, of_one=False):
            self._files.create_dir(folder, recursive=True)
            with self._files.open_output_stream(temporary) as file:
                shutil.copyfileobj(source, file, _CHUNK)
            self._files.move(temporary, path)

    def write_new(self, uri: str, data: bytes, *, staging: str | None = None) -> bool:
        if self.exists(uri):
            return False
        self.write(uri, data)
        return True

    def replace(self, uri: str, data: bytes, version: str, *, staging: str | None = None) -> bool:
        there = self.stat(uri)
        if there is None or there.version != version:
            return False
        self.write(uri, data)
        return True

    def age(self, uri: str) -> float | None:
        with faults(uri, file_fault):
            info = self._files.get_file_info(self._path(uri))
        if info.type != fs.FileType.File:
            return None
        return max(0.0, time.time() - (info.mtime_ns or 0) / 1e9)  # such stores do not say what time it is there

    def _delete(self, uri: str, staging: str | None) -> None:
        with faults(uri, file_fault, of_one=False), contextlib.suppress(FileNotFoundError):
            self._files.delete_file(self._path(uri))
