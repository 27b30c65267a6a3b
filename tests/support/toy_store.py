"""Describes and opens a store of the tests, in one file: ``toy://box/key`` is the file ``$TOY_FOLDER/box/key``.

Copied into ``storage/backends/``, it is a kind of store like any other. Its objects called ``denied`` are refused by an
error that tells the key, as careless clients do.
"""

import os
from typing import TYPE_CHECKING

from m2f_batch.backends import Backend

if TYPE_CHECKING:
    from m2f_batch.storage.store import Store

BACKEND = Backend(
    schemes=("toy",),
    opener="m2f_batch.storage.backends.toy:open_store",
    settings="m2f_batch.storage.backends.toy:settings",
    authority=((r"[a-z]+", "toy://...: wanted toy://BOX/KEY, BOX of small letters"),),
    misspelled=("toys",),
    forwarded=("TOY_FOLDER", "TOY_SERVER"),
    endpoints=("TOY_SERVER",),
    secrets=("TOY_KEY",),
)


def settings() -> str:
    """Returns what the store is opened with."""
    return os.environ["TOY_FOLDER"]


def open_store(scheme: str, authority: str) -> "Store":
    """Returns the store of a box."""
    from pyarrow import fs

    from m2f_batch.storage.arrow import ArrowStore
    from m2f_batch.storage.store import Denied, Entry

    class ToyStore(ArrowStore):
        def read_entry(self, uri: str) -> tuple[bytes, Entry]:
            if "denied" in uri:
                raise Denied(f"{uri}: not with the key {os.environ['TOY_KEY']}")
            return super().read_entry(uri)

    return ToyStore(fs.LocalFileSystem(), f"{settings()}/{authority}")
