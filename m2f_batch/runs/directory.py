"""Opens the run directory and writes its files.

    RUN/run.json                 provenance and totals
    RUN/annotations/*.parquet    the rows, in the files that the plan names
    RUN/<name>/*.parquet         sidecars of those files, if there are any: see ``writing/sidecars``
    RUN/_SUCCESS                 written last
    RUN/_state/manifest.parquet  what INPUT listed, sorted by uri, with the kept columns and the plan: see ``plan``
    RUN/_state/parts/            units of files that are not whole yet: see ``writing/commit``
    RUN/_state/dirty.json        files that lose rows before anything is labeled
    RUN/_state/lease/, tmp/      who may write: see ``lease`` and ``held_folder``
    RUN/_state/log/              what happened, one file per attempt

Files appear atomically. The name of a file of rows is a hash of the image ids, the fingerprint and the plan that
produce it, so a repeated write targets the same name.
"""

import io
import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from m2f_batch.errors import Plain, RunError, TransientError
from m2f_batch.runs.held_folder import Fence, HeldFolder, json_bytes
from m2f_batch.runs.plan import Plan, plan_of
from m2f_batch.runs.tally import COLUMNS, Tally
from m2f_batch.storage.json_text import json_object_or_none
from m2f_batch.storage.native_memory import reader_of
from m2f_batch.storage.places import open_place
from m2f_batch.storage.store import Entry, NotFound, Unreachable

# what other commands read of run.json
INFO_KEYS = frozenset(
    {"run_id", "task", "model", "config", "categories", "images", "segments", "errors"}
    | {"seconds", "images_per_second", "started_at", "finished_at"}
)
UNIT_FILE = re.compile(r"[0-9a-f]{32}\.parquet")
MANIFEST_ROWS = 1 << 20  # in a row group, as ``pq.write_table`` has them
_TOKEN = b"m2f_batch.token"  # of the holder that wrote the manifest


class DamagedFile(RunError):
    """A file of the run is not what it was written as."""


@dataclass(frozen=True)
class RunDirectory(HeldFolder):
    """An opened run directory on any store. ``uri`` has no trailing slash."""

    def __reduce__(self) -> tuple[Callable[..., "RunDirectory"], tuple[str, Fence | None]]:
        """Pickle the place alone. The other process opens it anew."""
        return open_directory, (self.uri, self.fence)

    def holds_run(self) -> bool:
        """Return whether a run was begun here."""
        return self.store.exists(self.path("run.json"))

    def is_finished(self) -> bool:
        """Return whether ``_SUCCESS`` is there."""
        return self.store.exists(self.path("_SUCCESS"))

    def write_new(self, name: str, data: bytes) -> bool:
        """Create a file of the run if there is none, return False if there is one."""
        self.check_fence()
        try:
            is_new = self.store.write_new(self.path(name), data, staging=self.staging)
        except (TransientError, Unreachable):  # it may be there all the same, or soon
            self._withdraw_if_fenced(name)
            raise
        if is_new:
            self._withdraw_if_fenced(name)
        return is_new

    def _withdraw_if_fenced(self, name: str) -> None:
        """Delete a file of rows, or a sidecar, that was just written, if another run has replaced the plan meanwhile.

        The process may have been suspended between the check of the lease and the write. A file that the new plan does
        not name would double rows. Raises Fenced if another run has taken over.
        """
        folder, _, file = name.removesuffix(".parquet").partition("/")
        if folder == "_state" or not self.is_fenced():
            return  # readers see annotations and sidecars only
        plan = self.read_plan()  # if it is still the old plan, whoever writes the new one sweeps after that
        if plan is None or file not in plan.names():
            self.store.delete([self.path(name)])
        raise self.fenced()

    def prune(self) -> None:
        """Remove our empty folders, and the run's own where nothing is left."""
        self.store.prune(self.path("annotations"))
        super().prune()

    def write_manifest(self, table: pa.Table) -> None:
        """Keep what was listed. Every holder writes another file, so a late request cannot replace a later plan."""
        uri = self.path("_state/manifest.parquet")
        entry = self.store.stat(uri)
        self.check_fence()
        if self.fence is not None:
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), _TOKEN: str(self.fence.token)})
        self._replace(uri, _manifest_bytes(table), entry)

    def read_manifest(self) -> pa.Table:
        """Read what was listed: image_id, uri, version and the kept columns, sorted by uri."""
        uri = self.path("_state/manifest.parquet")
        return self._parse(uri, self.store.read(uri), numbered="file")

    def plan_version(self) -> str | None:
        """Return the version of the file that holds the plan, None as long as there is none."""
        entry = self.store.stat(self.path("_state/manifest.parquet"))
        return None if entry is None else entry.version

    def read_plan(self) -> Plan | None:
        """Read the plan of the run, None as long as there is none."""
        try:
            return plan_of(self.read_manifest())
        except NotFound:
            return None

    def read_dirty(self, plan_id: str | None = None) -> list[str]:
        """List the files that a plan, or any plan, wants cleaned and that may not have been cleaned yet."""
        try:
            dirty = json.loads(self.store.read(self.path("_state/dirty.json")))
        except NotFound:
            return []
        return list(dirty["files"]) if plan_id in (None, dirty["plan"]) else []

    def write_info(self, info: dict[str, Any]) -> None:
        """Replace run.json. Raises Fenced when it is that of a later holder, or of another run of the same."""
        uri, data = self.path("run.json"), json_bytes(info)
        held, entry = b"{}", None
        with suppress(NotFound):
            held, entry = self.store.read_entry(uri)
        self.check_fence()
        before, token = json_object_or_none(held) or {}, info.get("token", 0)
        is_another = before.get("run_id", info["run_id"]) != info["run_id"] and before.get("token", 0) == token
        if is_another or before.get("token", 0) > token:
            raise self.fenced()
        self._replace(uri, data, entry)

    def _replace(self, uri: str, data: bytes, before: Entry | None) -> None:
        """Replace a file that nobody has written since it was read. Raises TransientError if somebody has."""
        if before is None:
            is_done = self.store.write_new(uri, data, staging=self.staging)
        else:
            is_done = self.store.replace(uri, data, before.version, staging=self.staging)
        if not is_done:
            raise TransientError(f"{uri}: other writers in the way")

    def read_info(self) -> dict[str, Any]:
        """Read the tree of run.json. See ``info`` for typed values."""
        try:
            info = json.loads(self.store.read(self.path("run.json")))
        except ValueError as error:
            raise RunError(f"is not JSON ({error})", field="RUN", value=Plain(self.path("run.json"))) from None
        if not isinstance(info, dict) or not info.keys() >= INFO_KEYS:
            raise RunError("is not the run.json of a run", field="RUN", value=Plain(self.path("run.json")))
        return info

    def commit(self, file: str, rows: pa.Table) -> pa.Table:
        """Write a file of rows unless it is there already, and return the rows that are there now."""
        name = f"annotations/{file}.parquet"
        return rows if self.write_new(name, parquet_bytes(rows)) else self.read_annotations(self.path(name))

    def annotation_files(self) -> list[str]:
        """List the URIs of the committed files, by name."""
        return [uri for uri in self._parquet_files() if UNIT_FILE.fullmatch(uri.rpartition("/")[2])]

    def foreign_files(self) -> list[str]:
        """List Parquet files among the annotations that no run wrote. Readers would take them for rows."""
        return [uri for uri in self._parquet_files() if not UNIT_FILE.fullmatch(uri.rpartition("/")[2])]

    def committed(self) -> dict[str, Entry]:
        """List the committed files by their names without extension."""
        listed = self.store.list(f"{self.path('annotations')}/")
        found = ((entry.uri.rpartition("/")[2], entry) for entry in listed)
        return {name.removesuffix(".parquet"): entry for name, entry in found if UNIT_FILE.fullmatch(name)}

    def _parquet_files(self) -> list[str]:
        listed = (entry.uri for entry in self.store.list(f"{self.path('annotations')}/"))
        return sorted(uri for uri in listed if uri.endswith(".parquet"))

    def read_annotations(self, uri: str, columns: list[str] | None = None) -> pa.Table:
        """Read the rows of one file, or ``columns`` of them, also leaves of nested ones (segments.list.element.id).

        Raises DamagedFile when it is no Parquet file.
        """
        return self.parse_annotations(uri, self.store.read(uri), columns)

    def parse_annotations(self, uri: str, data: bytes, columns: list[str] | None = None) -> pa.Table:
        """Parse the rows of a file that was read."""
        return self._parse(uri, data, columns)

    def _parse(self, uri: str, data: bytes, columns: list[str] | None = None, numbered: str = "") -> pa.Table:
        """Parse a Parquet file, with the column ``numbered``, if it is there, as a dictionary."""
        source = reader_of(data)
        try:
            coded = [numbered] if numbered and numbered in pq.read_schema(source).names else []
            return pq.ParquetFile(source, read_dictionary=coded).read(columns=columns)
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DamagedFile(f"{uri}: cannot be read as Parquet ({reason})") from None

    def tally(self, files: Iterable[str] | None = None) -> Tally:
        """Count the rows of all committed files, or of those given, by reading them."""
        tally = Tally()
        for uri in self.annotation_files() if files is None else files:
            tally.add(self.read_annotations(uri, [*COLUMNS]))
        return tally

    def mark_success(self) -> None:
        """Write ``_SUCCESS``. Raises Fenced, and takes it back, when another run has taken over and is not finished."""
        self.write("_SUCCESS", b"")
        if self.fence is not None and self.is_fenced():
            info = self.read_info()
            if info["finished_at"] is None or info.get("token", 0) <= self.fence.token:
                self.store.delete([self.path("_SUCCESS")])
            raise self.fenced()


def open_directory(uri: str, fence: Fence | None = None) -> RunDirectory:
    """Open a run directory, existing or not."""
    place = open_place(uri)
    return RunDirectory(place.uri.rstrip("/"), place.store, fence)


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a whole Parquet file, zstd. Equal rows give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _manifest_bytes(table: pa.Table) -> bytes:
    """Return a whole manifest, zstd, whose column ``file`` is turned into text a row group at a time."""
    fields = [pa.field("file", pa.string()) if field.name == "file" else field for field in table.schema]
    schema = pa.schema(fields, table.schema.metadata)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for first in range(0, max(1, table.num_rows), MANIFEST_ROWS):
            writer.write_table(table.slice(first, MANIFEST_ROWS).cast(schema))
    return sink.getvalue()
