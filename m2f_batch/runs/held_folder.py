"""A folder on any store that one process at a time writes to: OUTPUT of a run and of a training.

    OUTPUT/_state/lease/  who may write: see ``lease``
    OUTPUT/_state/tmp/    staging, one folder per holder, where disks write a file before it gets its name

A file appears whole or not at all.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from m2f_batch.runs.lease import is_taken_over
from m2f_batch.storage.places import open_place
from m2f_batch.storage.store import Fenced, Store


class Fence(NamedTuple):
    """The permission to write of the holder of the lease ``token``, for the plan ``plan_id`` if there is one."""

    token: int
    plan_id: str


@dataclass(frozen=True)
class HeldFolder:
    """An opened folder on any store. ``uri`` has no trailing slash.

    With a ``fence``, each write raises Fenced once another holder has taken over the lease.
    """

    uri: str
    store: Store
    fence: Fence | None = None

    def __reduce__(self) -> tuple[Callable[..., "HeldFolder"], tuple[str, Fence | None]]:
        """Pickle the place alone. The other process opens it anew."""
        return open_folder, (self.uri, self.fence)

    def path(self, name: str) -> str:
        """Return the URI of a file in the folder."""
        return f"{self.uri}/{name}"

    @property
    def lease_folder(self) -> str:
        """The folder of the leases."""
        return self.path("_state/lease")

    @property
    def staging(self) -> str | None:
        """The staging folder of this writer, None without a fence."""
        return None if self.fence is None else self.staging_of(self.fence.token)

    def staging_of(self, token: int) -> str:
        """Return the staging folder of the holder of a lease."""
        return self.path(f"_state/tmp/{token:09d}")

    def check_fence(self) -> None:
        """Raise Fenced when another process has taken over."""
        if self.is_fenced():
            raise self.fenced()

    def fenced(self) -> Fenced:
        """Return the error of a writer whose lease is gone."""
        return Fenced(f"output.uri: another run has taken {self.uri} over")

    def is_fenced(self) -> bool:
        """Return whether another process has taken over."""
        return self.fence is not None and is_taken_over(self.store, self.lease_folder, self.fence.token)

    def write(self, name: str, data: bytes) -> None:
        """Create or replace a file."""
        self.check_fence()
        self.store.write(self.path(name), data, staging=self.staging)

    def upload(self, file: Path, name: str) -> None:
        """Create or replace a file by a local one, which need not fit in memory."""
        self.check_fence()
        self.store.upload(file, self.path(name), staging=self.staging)

    def write_new(self, name: str, data: bytes) -> bool:
        """Create a file if there is none, return False if there is one."""
        self.check_fence()
        return self.store.write_new(self.path(name), data, staging=self.staging)

    def delete(self, uris: Iterable[str]) -> None:
        """Delete files whose names no later holder gives to other content."""
        unwanted = [*uris]
        self.check_fence()
        self.store.delete(unwanted, staging=self.staging)

    def prune(self) -> None:
        """Remove our empty folders, and the folder itself where nothing is left."""
        self.store.prune(self.path("_state"))
        if not any(True for _ in self.store.list(f"{self.uri}/")):
            self.store.prune(self.uri)


def open_folder(uri: str, fence: Fence | None = None) -> HeldFolder:
    """Open a folder, existing or not."""
    place = open_place(uri)
    return HeldFolder(place.uri.rstrip("/"), place.store, fence)


def json_bytes(tree: dict[str, Any]) -> bytes:
    """Return a JSON file that people can read."""
    return (json.dumps(tree, indent=2) + "\n").encode()
