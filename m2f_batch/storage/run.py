"""The run directory: its files, the units of work, what is done, and run.json.

    RUN/run.json                 provenance and totals
    RUN/annotations/*.parquet    one file per unit, named by the hash of its image ids and the run's fingerprint
    RUN/_state/manifest.parquet  what INPUT listed, sorted by uri, with the kept columns
    RUN/_SUCCESS                 written last

A unit is a contiguous slice of the manifest. Its file appears whole or not at all, and its name follows from its
content's cause, so that a retry or a stray writer can only write the same file again: done is what storage holds.
"""

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from m2f_batch.errors import RunError, UsageError
from m2f_batch.records import ImageRef
from m2f_batch.storage.listing import Listing
from m2f_batch.storage.places import open_store
from m2f_batch.storage.store import Store
from m2f_batch.storage.uris import normalise

# what other commands read of run.json
INFO_KEYS = frozenset(
    {"run_id", "task", "model", "config", "categories", "images", "segments", "errors"}
    | {"seconds", "images_per_second", "started_at", "finished_at"}
)
UNIT_FILE = re.compile(r"[0-9a-f]{32}\.parquet")


class DamagedFile(RunError):
    """A file of the run that is not what it was written as."""


@dataclass
class Tally:
    """Counts of rows: images with status ok and error, segments, and errors by ``stage/type``."""

    ok: int = 0
    error: int = 0
    segments: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, rows: pa.Table) -> None:
        """Count the rows of a table with the columns status, error and segments."""
        statuses = Counter(rows["status"].to_pylist())
        self.ok, self.error = self.ok + statuses["ok"], self.error + statuses["error"]
        self.segments += pc.sum(pc.list_value_length(rows["segments"])).as_py() or 0
        self.reasons.update(f"{error['stage']}/{error['type']}" for error in rows["error"].to_pylist() if error)


@dataclass(frozen=True)
class Unit:
    """A slice of the manifest that is committed as one file. ``name`` is the file's stem."""

    name: str
    refs: tuple[ImageRef, ...]


@dataclass(frozen=True)
class RunDirectory:
    """An opened run directory on any store; ``uri`` without a trailing slash."""

    uri: str
    store: Store

    def path(self, name: str) -> str:
        """The uri of a file of the run."""
        return f"{self.uri}/{name}"

    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return self.store.exists(self.path("run.json"))

    def is_finished(self) -> bool:
        """Whether ``_SUCCESS`` is there."""
        return self.store.exists(self.path("_SUCCESS"))

    def claim(self, info: dict[str, Any]) -> bool:
        """Write the first run.json; False when another run has just done so. Only one of many racing runs may go on."""
        return self.store.write_new(self.path("run.json"), _json_bytes(info))

    def remove(self) -> None:
        """Delete what a run wrote, ``_SUCCESS`` first and ``run.json`` last; all other files stay."""
        self.store.delete([self.path("_SUCCESS")])
        self.store.delete(self.annotation_files())
        self.store.delete([self.path("_state/manifest.parquet"), self.path("run.json")])

    def write_manifest(self, table: pa.Table) -> None:
        """Keep what was listed."""
        self.store.write(self.path("_state/manifest.parquet"), parquet_bytes(table))

    def read_manifest(self) -> pa.Table:
        """What was listed: image_id, uri, version and the kept columns, sorted by uri."""
        return pq.read_table(pa.BufferReader(self.store.read(self.path("_state/manifest.parquet"))))

    def write_info(self, info: dict[str, Any]) -> None:
        """Replace run.json."""
        self.store.write(self.path("run.json"), _json_bytes(info))

    def read_info(self) -> dict[str, Any]:
        """run.json as it is now."""
        try:
            info = json.loads(self.store.read(self.path("run.json")))
        except ValueError as error:
            raise RunError(f"RUN: {self.path('run.json')} is not JSON ({error})") from None
        if not isinstance(info, dict) or not info.keys() >= INFO_KEYS:
            raise RunError(f"RUN: {self.path('run.json')} is not the run.json of a run")
        return info

    def commit(self, unit_name: str, rows: pa.Table) -> pa.Table:
        """Write a unit's file unless it is there already; returns the rows that stand there now."""
        uri = self.path(f"annotations/{unit_name}.parquet")
        return rows if self.store.write_new(uri, parquet_bytes(rows)) else self.read_annotations(uri)

    def annotation_files(self) -> list[str]:
        """The uris of the committed units' files, by name."""
        return [uri for uri in self._parquet_files() if UNIT_FILE.fullmatch(uri.rpartition("/")[2])]

    def foreign_files(self) -> list[str]:
        """Parquet files among the annotations that no run of ours wrote; a reader would take them for rows."""
        return [uri for uri in self._parquet_files() if not UNIT_FILE.fullmatch(uri.rpartition("/")[2])]

    def _parquet_files(self) -> list[str]:
        listed = (entry.uri for entry in self.store.list(f"{self.path('annotations')}/"))
        return sorted(uri for uri in listed if uri.endswith(".parquet"))

    def read_annotations(self, uri: str, columns: list[str] | None = None) -> pa.Table:
        """The rows of one unit's file. Raises DamagedFile when it is no Parquet file."""
        try:
            return pq.read_table(pa.BufferReader(self.store.read(uri)), columns=columns)
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DamagedFile(f"{uri}: cannot be read as Parquet ({reason})") from None

    def tally(self) -> Tally:
        """What the committed files hold, counted from themselves."""
        tally = Tally()
        for uri in self.annotation_files():
            tally.add(self.read_annotations(uri, ["status", "error", "segments"]))
        return tally

    def tables_by_uri(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """All rows in the order of their uris, a unit at a time.

        Units are contiguous slices, so ordering the files by their first uri orders the rows.
        """
        files = [(self.read_annotations(uri, ["uri"])["uri"][0].as_py(), uri) for uri in self.annotation_files()]
        for _, uri in sorted(files):
            yield self.read_annotations(uri, columns)

    def mark_success(self) -> None:
        """Write ``_SUCCESS``."""
        self.store.write(self.path("_SUCCESS"), b"")


def open_run(uri: str) -> RunDirectory:
    """A run directory, existing or not."""
    store = open_store(uri)
    return RunDirectory(normalise(uri).rstrip("/"), store)


def open_existing_run(uri: str) -> RunDirectory:
    """A run directory that holds a run; raises UsageError otherwise."""
    run = open_run(uri)
    if not run.holds_run():
        raise UsageError(f"RUN: {uri} holds no run.json; give the OUTPUT of 'm2f-batch segment'")
    return run


def units_of(listing: Listing, fingerprint: str, images_per_file: int) -> Iterator[Unit]:
    """The units of a run, in the order of the manifest."""
    table = listing.table
    for first in range(0, table.num_rows, images_per_file):
        part = table.slice(first, images_per_file)
        refs = zip(part["uri"].to_pylist(), part["version"].to_pylist(), strict=True)
        yield Unit(unit_name(part["image_id"], fingerprint), tuple(ImageRef(uri, version) for uri, version in refs))


def unit_name(image_ids: pa.ChunkedArray, fingerprint: str) -> str:
    """The name of a unit's file, from the ids in it and the run's fingerprint."""
    digest = hashlib.sha256(fingerprint.encode())
    digest.update(np.asarray(image_ids.to_numpy(), dtype=">i8").tobytes())
    return digest.hexdigest()[:32]


def _json_bytes(tree: dict[str, Any]) -> bytes:
    return (json.dumps(tree, indent=2) + "\n").encode()


def parquet_bytes(table: pa.Table) -> bytes:
    """A whole Parquet file in memory, zstd; the same bytes for the same rows."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
