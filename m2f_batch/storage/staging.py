"""Writes files of a disk in the staging folder of the lease's holder, and renames each when it is whole.

Whoever takes the lease over removes the staging folder of the holder before. From then on that process can write and
delete nothing, because it renames from that folder to write, and into it to delete. Paths are this machine's.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from typing import IO

from m2f_batch.errors import TransientError
from m2f_batch.storage import uris
from m2f_batch.storage.store import Fenced

_CHUNK = 1 << 20  # bytes copied at a time
_GONE = ".gone"


@contextlib.contextmanager
def temporary_file(path: str, source: IO[bytes], staging: str | None) -> Iterator[str]:
    """Writes a whole file on the disk of ``path``, beside it or in ``staging``. It is deleted unless it was moved.

    Raises Fenced if ``staging`` is gone, also when it vanishes while the file is being moved. Raises TransientError if
    the folder of ``path`` is gone, because empty folders are removed now and then.
    """
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary = _name(folder if staging is None else staging)
    try:
        with open(temporary, "xb") as file:
            shutil.copyfileobj(source, file, _CHUNK)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    except FileNotFoundError:
        _check(path, staging)
        raise TransientError(f"{uris.shown(path)}: its folder was removed meanwhile") from None
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(temporary)


def delete_file(path: str, staging: str | None) -> None:
    """Deletes a file, if there is one. Raises Fenced if ``staging`` is gone."""
    gone = path
    if staging is not None:
        gone = _name(staging)
        try:
            os.rename(path, gone)
        except FileNotFoundError:
            _check(path, staging)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(gone)


def open_folder(path: str) -> None:
    """Makes a staging folder, and removes those beside it that come before it by name.

    Raises Fenced where a later one is there.
    """
    os.makedirs(path, exist_ok=True)
    for other in os.scandir(os.path.dirname(path)):
        if other.path < path:
            close_folder(other.path)
        elif other.path != path and not other.name.endswith(_GONE):
            close_folder(path)
            raise Fenced(f"{uris.shown(path)}: another run has taken over")


def close_folder(path: str) -> None:
    """Removes a staging folder, if it is there, with all that is in it at once."""
    gone = path + _GONE
    shutil.rmtree(gone, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _name(folder: str) -> str:
    return os.path.join(folder, f".{uuid.uuid4().hex}.tmp")


def _check(path: str, staging: str | None) -> None:
    if staging is not None and not os.path.isdir(staging):
        raise Fenced(f"{uris.shown(path)}: another run has taken over")
