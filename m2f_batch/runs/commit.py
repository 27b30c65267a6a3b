"""Rows to files: a unit of work is committed, and whoever commits the last unit of a file joins it.

    RUN/annotations/<file>.parquet        whole files, what readers see
    RUN/_state/parts/<file>/<unit>.parquet  units of files that have more than one, until the last of them is there

Nobody needs to know who else commits: storage says which units are there. Two who both see all of them write the same
file, and ``write_new`` lets one of them win.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from m2f_batch.errors import RunError, TransientError
from m2f_batch.runs.assignment import assigned_of
from m2f_batch.runs.directory import RunDirectory, parquet_bytes
from m2f_batch.runs.held_folder import json_bytes
from m2f_batch.runs.plan import Change, Plan, file_and_part, unit_name
from m2f_batch.storage.retries import retry_write
from m2f_batch.storage.store import Entry, NotFound

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]  # a map, in any order


def commit(run: RunDirectory, unit: str, rows: pa.Table) -> pa.Table:
    """Write the rows of a unit unless they are there already; returns the rows that stand there now.

    Raises TransientError when the retries are spent, Fenced when another run has taken over.
    """
    file, _, parts = file_and_part(unit)
    if parts == 1:
        return retry_write(lambda: run.commit(file, rows))
    stands = _stage(run, _part(file, unit), rows)
    there = retry_write(lambda: staged(run, file))
    if len(there) == parts:
        join(run, file, there)
    return stands


def _stage(run: RunDirectory, name: str, rows: pa.Table) -> pa.Table:
    if retry_write(lambda: run.write_new(name, parquet_bytes(rows))):
        return rows
    try:
        return retry_write(lambda: run.read_annotations(run.path(name)))
    except NotFound:  # it has just been joined with its others
        return rows


def staged(run: RunDirectory, file: str = "") -> list[str]:
    """The units, of one file or of all, that wait for the others of their file; sorted."""
    folder = run.path("_state/parts") + (f"/{file}/" if file else "/")
    names = (entry.uri.rpartition("/")[2] for entry in run.store.list(folder))
    return sorted(name.removesuffix(".parquet") for name in names if name.endswith(".parquet"))


def staged_files(run: RunDirectory, files: Collection[str]) -> list[str]:
    """The uris of the staged units of these files."""
    units = retry_write(lambda: staged(run))
    return [run.path(_part(file, unit)) for unit in units if (file := file_and_part(unit)[0]) in files]


def join(run: RunDirectory, file: str, units: Iterable[str]) -> None:
    """Write a file from all its units, and delete those."""
    parts = [run.path(_part(file, unit)) for unit in units]
    try:
        rows = pa.concat_tables([retry_write(partial(run.read_annotations, uri)) for uri in parts])
    except NotFound:
        if not run.store.exists(run.path(_final(file))):
            raise TransientError(f"{file}: a part of it vanished") from None
        return  # another one has joined it meanwhile
    retry_write(lambda: run.write_new(_final(file), parquet_bytes(rows)))
    retry_write(lambda: run.delete(parts))


def join_whole(run: RunDirectory, there: Collection[str], units: Iterable[str], each: Each = map) -> list[str]:
    """Join the files of which all units are staged, as a kill may leave them; returns the names of those files."""
    by_file: dict[str, list[str]] = {}
    for unit in units:
        by_file.setdefault(file_and_part(unit)[0], []).append(unit)
    whole = {
        file: parts
        for file, parts in by_file.items()
        if file not in there and len(parts) == file_and_part(parts[0])[2] and parts == _all_parts(file, len(parts))
    }
    _do_all(each, _join, ((run, file, parts) for file, parts in whole.items()))
    return [*whole]


def _join(arguments: tuple[RunDirectory, str, list[str]]) -> None:
    join(*arguments)


def clean(run: RunDirectory, plan: Plan, dirty: Iterable[str], there: Mapping[str, Entry], each: Each = map) -> None:
    """Drop the rows that the plan does not want from the files that hold them; a file without rows is deleted.

    May be done again after a kill at any moment: it changes nothing that is clean already. ``each`` maps over the
    files, in any order.
    """
    files = assigned_of(plan.manifest())
    left = [name for name in dirty if name in there]
    empty = [there[name].uri for name in left if not files.images(name)]
    if empty:
        retry_write(lambda: run.delete(empty))
    _do_all(each, _keep_rows, ((run, there[name].uri, files.ids(name)) for name in left if files.images(name)))


def _keep_rows(arguments: tuple[RunDirectory, str, NDArray[np.int64]]) -> None:
    retry_write(lambda: _keep_rows_once(*arguments))


def _keep_rows_once(run: RunDirectory, uri: str, wanted: NDArray[np.int64]) -> None:
    data, entry = run.store.read_entry(uri)
    rows = run.parse_annotations(uri, data)
    is_wanted = np.isin(rows["image_id"].to_numpy(), wanted)
    if is_wanted.all():
        return
    run.check_fence()
    kept = parquet_bytes(rows.filter(pa.array(is_wanted)))
    if not run.store.replace(uri, kept, entry.version, staging=run.staging):
        raise TransientError(f"{uri}: other writers in the way")  # or an earlier request of ours that was slow


def sweep(run: RunDirectory, plan: Plan, there: Mapping[str, Entry]) -> None:
    """Delete what no reader should see and nothing will use: files the plan does not name, and left-over units.

    A writer that was thought dead, or a plan that was replaced, may have left them.
    """
    named = set(plan.names())
    run.delete(entry.uri for name, entry in there.items() if name not in named)
    unused = [unit for unit in staged(run) if (file := file_and_part(unit)[0]) not in named or file in there]
    run.delete(run.path(_part(file_and_part(unit)[0], unit)) for unit in unused)
    run.store.prune(run.path("_state/parts"))


def stage_merged(run: RunDirectory, plan: Plan, change: Change, there: Mapping[str, Entry], each: Each = map) -> None:
    """Stage the rows of small files as all units of the files that they are merged to, while they are still there.

    Once the plan is written, ``sweep`` deletes the small ones and ``join_whole`` writes the others: no reader sees a
    row twice, and a kill in between loses none. ``each`` maps over the files, in any order.
    """
    # else it was staged before, and the plan written
    left = {file: sources for file, sources in change.merged.items() if set(sources) <= there.keys()}
    if left:
        files, size = assigned_of(plan.manifest()), plan.images_per_unit
        found = ((file, [there[name].uri for name in sources]) for file, sources in left.items())
        _do_all(each, _stage_merged, ((run, file, files.ids(file), size, uris) for file, uris in found))


def _stage_merged(arguments: tuple[RunDirectory, str, NDArray[np.int64], int, list[str]]) -> None:
    run, file, wanted, size, sources = arguments
    rows = pa.concat_tables(retry_write(partial(run.read_annotations, uri)) for uri in sources).combine_chunks()
    place = {image: at for at, image in enumerate(rows["image_id"].to_pylist())}
    ids = wanted.tolist()
    if not place.keys() >= set(ids):
        raise RunError(
            f"{run.uri}: a row is missing in one of {', '.join(sources)}; delete that file, it is made again"
        )
    parts = -(-len(ids) // size)
    for part in range(parts):
        chosen = rows.take([place[image] for image in ids[part * size : (part + 1) * size]])
        name = _part(file, unit_name(file, part, parts))
        retry_write(partial(run.write_new, name, parquet_bytes(chosen)))


def write_dirty(run: RunDirectory, plan_id: str, files: Iterable[str]) -> None:
    """Say which files the plan wants cleaned, before the plan itself is written."""
    run.write("_state/dirty.json", json_bytes({"plan": plan_id, "files": [*files]}))


def _do_all(each: Each, act: Callable[[Any], None], items: Iterable[Any]) -> None:
    deque(each(act, items), maxlen=0)


def _all_parts(file: str, parts: int) -> list[str]:
    return [unit_name(file, part, parts) for part in range(parts)]


def _final(file: str) -> str:
    return f"annotations/{file}.parquet"


def _part(file: str, unit: str) -> str:
    return f"_state/parts/{file}/{unit}.parquet"
