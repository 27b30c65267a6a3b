"""Where a command may write a file of its own: anywhere but over what it reads."""

import os
from collections.abc import Iterable

from m2f_batch.errors import UsageError
from m2f_batch.storage import uris
from m2f_batch.storage.places import open_store
from m2f_batch.storage.store import ObjectError, Store, StoreUnavailable

OF_RUN = ("run.json", "_SUCCESS", "_state", "annotations")  # what a run directory consists of


def store_of_file(dest: str, field: str, *, run: str | None = None, read: Iterable[str | None] = ()) -> Store:
    """The store that takes the file ``dest``; ``run`` is the run directory that is read, ``read`` are other files.

    Raises UsageError, which begins with ``field``, where it can be no file, or would take the place of one of those.
    """
    try:
        place = uris.normalise(dest)
        uris.check_written(place)
        store = open_store(place)
        if dest.endswith("/") or store.is_folder(place):
            raise UsageError(f"{dest!r} is a folder; give the name of a file in it")
        _check_above(dest, place)
    except (UsageError, ObjectError, StoreUnavailable) as error:
        raise UsageError(f"{field}: {error}") from None
    if run is not None and any(uris.is_inside(place, f"{run}/{name}") for name in OF_RUN):
        raise UsageError(f"{field}: {dest!r} is a part of the run itself; give another place")
    if any(each is not None and _is_same(place, each) for each in read):
        raise UsageError(f"{field}: {dest!r} is what is read; give another name")
    return store


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
        raise UsageError(f"{dest!r}: {above!r} is a file; give a folder")
