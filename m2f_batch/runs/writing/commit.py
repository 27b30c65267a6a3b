"""Commits units: writes their rows, and joins the units of a file once all of them are there.

    RUN/annotations/<file>.parquet          whole files, which readers see
    RUN/_state/parts/<file>/<unit>.parquet  staged units of a file that has several, until the last of them is there

The sidecars of a unit are written before its rows, see ``sidecars``. No process needs to know who else commits, because
storage says which units are there. Two that both see all units of a file write the same content, and ``write_new`` lets
one of them win.
"""

from collections.abc import Collection, Iterable
from functools import partial
from itertools import chain

import pyarrow as pa

from m2f_batch.errors import TransientError
from m2f_batch.runs.directory import RunDirectory, parquet_bytes
from m2f_batch.runs.plan import file_and_part
from m2f_batch.runs.writing.sidecars import (
    Sidecars,
    names_in,
    read_sidecars,
    sidecar_path,
    staged_sidecar_path,
    with_names,
    write_sidecar,
)
from m2f_batch.storage.retries import retry_write
from m2f_batch.storage.store import NotFound


def commit(run: RunDirectory, unit: str, rows: pa.Table, sidecars: Sidecars | None = None) -> pa.Table:
    """Write the sidecars and the rows of a unit unless they are there, and return the rows that are there now.

    Raises TransientError when the retries are spent, Fenced when another run has taken over.
    """
    file, _, parts = file_and_part(unit)
    path = file_path(file) if parts == 1 else part_path(file, unit)
    for name, table in (sidecars or {}).items():
        beside = sidecar_path(name, file) if parts == 1 else staged_sidecar_path(name, file, unit)
        write_sidecar(run, name, beside, table, path)
    rows = with_names(rows, (sidecars or {}).keys())
    if parts == 1:
        return retry_write(lambda: run.commit(file, rows))
    committed = _stage(run, path, rows)
    there = retry_write(lambda: staged(run, file))
    if len(there) == parts:
        join(run, file, there)
    return committed


def _stage(run: RunDirectory, name: str, rows: pa.Table) -> pa.Table:
    if retry_write(lambda: run.write_new(name, parquet_bytes(rows))):
        return rows
    try:
        return retry_write(lambda: run.read_annotations(run.path(name)))
    except NotFound:  # another process has just joined it with the others
        return rows


def staged(run: RunDirectory, file: str = "") -> list[str]:
    """List the staged units of one file, or of all, sorted."""
    folder = run.path("_state/parts") + (f"/{file}/" if file else "/")
    names = (entry.uri.rpartition("/")[2] for entry in run.store.list(folder))
    return sorted(name.removesuffix(".parquet") for name in names if name.endswith(".parquet"))


def staged_files(run: RunDirectory, files: Collection[str]) -> list[str]:
    """List the URIs of the staged units of these files."""
    units = retry_write(lambda: staged(run))
    return [run.path(part_path(file, unit)) for unit in units if (file := file_and_part(unit)[0]) in files]


def join(run: RunDirectory, file: str, units: Iterable[str]) -> None:
    """Write a file from all its units, and delete those."""
    parts = {unit: run.path(part_path(file, unit)) for unit in units}
    try:
        tables = {unit: retry_write(partial(run.read_annotations, uri)) for unit, uri in parts.items()}
        sidecars = _joined_sidecars(run, file, {unit: names_in(rows) for unit, rows in tables.items()})
    except NotFound:
        if not run.store.exists(run.path(file_path(file))):
            raise TransientError(f"{file}: a part of it vanished") from None
        return  # another process has joined it meanwhile
    for name, table in sidecars.items():
        retry_write(partial(run.write_new, sidecar_path(name, file), parquet_bytes(table)))
    rows = with_names(pa.concat_tables(tables.values()), sidecars.keys())
    retry_write(lambda: run.write_new(file_path(file), parquet_bytes(rows)))
    retry_write(lambda: run.delete(parts.values()))
    beside = [run.path(staged_sidecar_path(name, file, unit)) for name in sidecars for unit in parts]
    if beside:
        retry_write(lambda: run.delete(beside))


def _joined_sidecars(run: RunDirectory, file: str, names: dict[str, list[str]]) -> dict[str, pa.Table]:
    """Read the sidecars of staged units, each of which has some ``names``, joined by name."""
    units = {name: [unit for unit in names if name in names[unit]] for name in sorted({*chain(*names.values())})}
    return {name: read_sidecars(run, [staged_sidecar_path(name, file, unit) for unit in units[name]]) for name in units}


def file_path(file: str) -> str:
    """Return the name of a whole file in the run directory."""
    return f"annotations/{file}.parquet"


def part_path(file: str, unit: str) -> str:
    """Return the name of a staged unit in the run directory."""
    return f"_state/parts/{file}/{unit}.parquet"
