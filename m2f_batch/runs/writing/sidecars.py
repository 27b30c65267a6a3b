"""Keeps sidecars: tables that say more about the images of a run than its rows do, in files beside the rows.

    RUN/<name>/<file>.parquet                         the sidecar of the annotation file of that name
    RUN/_state/sidecars/<name>/<file>/<unit>.parquet  the sidecars of staged units
    RUN/_state/sidecars/<name>/used                   says that there may be such files, and stays

A sidecar has a column ``image_id`` and any number of rows for an image. It is committed before its rows and deleted
after them, so the annotation file, or the staged unit, marks what is done and names its sidecars in its metadata.
A run without sidecars has none of these files, and nothing of this module asks storage for it but the listing of
``_state/sidecars`` when files are swept.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from m2f_batch.errors import TransientError
from m2f_batch.runs.directory import RunDirectory, parquet_bytes
from m2f_batch.storage.retries import retry_write

Sidecars = Mapping[str, pa.Table]  # by name
SIDECAR_NAME = re.compile(r"(?!annotations$)[a-z][a-z0-9_]*")
_KEY = b"m2f_batch.sidecars"  # of the metadata of rows
_FOLDER = "_state/sidecars"


def sidecar_path(name: str, file: str) -> str:
    """Return the name of the sidecar of a whole file in the run directory."""
    return f"{name}/{file}.parquet"


def staged_sidecar_path(name: str, file: str, unit: str) -> str:
    """Return the name of the sidecar of a staged unit in the run directory."""
    return f"{_FOLDER}/{name}/{file}/{unit}.parquet"


def names_in(rows: pa.Table) -> list[str]:
    """Return the names of the sidecars that rows were committed with, sorted."""
    names = (rows.schema.metadata or {}).get(_KEY)
    return [] if names is None else list(json.loads(names))


def with_names(rows: pa.Table, names: Collection[str]) -> pa.Table:
    """Return rows that name their sidecars."""
    if not names:
        return rows
    return rows.replace_schema_metadata({**(rows.schema.metadata or {}), _KEY: json.dumps(sorted(names)).encode()})


def write_sidecar(run: RunDirectory, name: str, path: str, table: pa.Table, marker: str) -> None:
    """Write a sidecar for the rows that are to be written to ``marker`` next.

    Rows that are there already keep the sidecar that they have. A sidecar without rows is replaced: another process
    made it and was killed, and on a GPU its numbers may differ from ours.
    """
    if SIDECAR_NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name of a sidecar")
    retry_write(lambda: run.write_new(f"{_FOLDER}/{name}/used", b""))
    retry_write(lambda: _write_once(run, path, parquet_bytes(table), marker))


def _write_once(run: RunDirectory, path: str, data: bytes, marker: str) -> None:
    if run.write_new(path, data):
        return
    uri = run.path(path)
    before = run.store.stat(uri)  # first, so that a sidecar that is replaced together with its rows stays
    if before is None:
        raise TransientError(f"{uri}: vanished while it was written")
    if not run.store.exists(run.path(marker)):
        run.check_fence()
        is_ours = run.store.replace(uri, data, before.version, staging=run.staging)
        if not is_ours and not run.store.exists(run.path(marker)):
            raise TransientError(f"{uri}: other writers in the way")  # which may die before they write the rows


def read_sidecars(run: RunDirectory, paths: Iterable[str]) -> pa.Table:
    """Return the rows of several sidecars of one name, one file after the other."""
    return pa.concat_tables([retry_write(partial(run.read_annotations, run.path(path))) for path in paths])


def of_images(table: pa.Table, ids: NDArray[np.int64]) -> pa.Table:
    """Return the rows of a sidecar that belong to these images, in the order of the images.

    >>> of_images(pa.table({"image_id": [3, 1, 3, 2], "x": [0, 1, 2, 3]}), np.array([2, 3]))["x"].to_pylist()
    [3, 0, 2]
    """
    order = np.argsort(ids, kind="stable")
    mine = table["image_id"].to_numpy()
    at = np.minimum(np.searchsorted(ids, mine, sorter=order), max(0, len(ids) - 1))
    rows = np.flatnonzero(ids[order[at]] == mine) if len(ids) else np.zeros(0, np.int64)
    place = order[at[rows]] if len(rows) else rows
    return table.take(pa.array(rows[np.argsort(place, kind="stable")], pa.int64()))


def keep_images(run: RunDirectory, file: str, names: Sequence[str], wanted: NDArray[np.int64]) -> None:
    """Drop the rows of all other images from the sidecars of a file, before its own rows go."""
    for name in names:
        uri = run.path(sidecar_path(name, file))
        data, entry = run.store.read_entry(uri)
        table = run.parse_annotations(uri, data)
        is_wanted = np.isin(table["image_id"].to_numpy(), wanted)
        if is_wanted.all():
            continue
        run.check_fence()
        kept = parquet_bytes(table.filter(pa.array(is_wanted)))
        if not run.store.replace(uri, kept, entry.version, staging=run.staging):
            raise TransientError(f"{uri}: other writers in the way")


def sweep_sidecars(run: RunDirectory, named: Collection[str], there: Collection[str]) -> None:
    """Delete sidecars of files that the plan does not name, and those of staged units that nothing will use.

    A sidecar of a named file that is not there yet stays, because whoever commits the file uses or replaces it.
    """
    staged, names = [], []
    for entry in run.store.list(f"{run.path(_FOLDER)}/"):
        name, *rest = entry.uri.removeprefix(f"{run.path(_FOLDER)}/").split("/")
        if rest == ["used"]:
            names.append(name)
        elif rest[0] not in named or rest[0] in there:
            staged.append(entry.uri)
    whole = [
        entry.uri
        for name in names
        for entry in run.store.list(f"{run.path(name)}/")
        if entry.uri.rpartition("/")[2].removesuffix(".parquet") not in named
    ]
    if staged or whole:
        run.delete([*staged, *whole])
    for folder in (*names, *([_FOLDER] if names else [])):
        run.store.prune(run.path(folder))
