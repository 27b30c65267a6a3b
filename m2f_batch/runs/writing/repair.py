"""Repairs a run after a kill or for a new plan: drops rows and files that are not wanted, joins what is complete.

``flow/attempt/open_output`` calls it. Temporary files are removed by ``storage/staging``, and sidecars by ``sidecars``.
What a killed training left is repaired in ``train/output``: lines by ``metrics_log``, checkpoints by ``checkpoints``,
deletions by ``hold_output``.
"""

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from m2f_batch.errors import TransientError
from m2f_batch.runs.assignment import assigned_of
from m2f_batch.runs.directory import RunDirectory, parquet_bytes
from m2f_batch.runs.held_folder import json_bytes
from m2f_batch.runs.plan import Plan, file_and_part, unit_name
from m2f_batch.runs.writing.commit import join, part_path, staged
from m2f_batch.runs.writing.map_files import Each, do_all
from m2f_batch.runs.writing.sidecars import keep_images, names_in, sweep_sidecars
from m2f_batch.storage.retries import retry_write
from m2f_batch.storage.store import Entry


def remove(run: RunDirectory) -> None:
    """Delete what a run wrote, except leases. The plan goes first, because nobody may resume a run that loses files."""
    run.delete([run.path("_SUCCESS"), run.path("_state/manifest.parquet")])
    run.delete(run.annotation_files())
    run.delete(entry.uri for entry in run.store.list(f"{run.path('_state/parts')}/"))
    sweep_sidecars(run, (), ())
    for name in ("_state/index.json", "_state/dirty.json", "run.json"):
        run.delete([run.path(name)])


def write_dirty(run: RunDirectory, plan_id: str, files: Iterable[str]) -> None:
    """Say which files the plan wants cleaned, before the plan itself is written."""
    run.write("_state/dirty.json", json_bytes({"plan": plan_id, "files": [*files]}))


def clean(run: RunDirectory, plan: Plan, dirty: Iterable[str], there: Mapping[str, Entry], each: Each = map) -> None:
    """Drop the rows that the plan does not want from the files that hold them, and delete files without rows.

    May be done again after a kill at any moment, because it changes nothing that is clean already. ``each`` maps over
    the files, in any order.
    """
    files = assigned_of(plan.manifest())
    left = [name for name in dirty if name in there]
    empty = [there[name].uri for name in left if not files.images(name)]
    if empty:
        retry_write(lambda: run.delete(empty))
    do_all(each, _keep_rows, ((run, name, there[name].uri, files.ids(name)) for name in left if files.images(name)))


def _keep_rows(arguments: tuple[RunDirectory, str, str, NDArray[np.int64]]) -> None:
    retry_write(lambda: _keep_rows_once(*arguments))


def _keep_rows_once(run: RunDirectory, file: str, uri: str, wanted: NDArray[np.int64]) -> None:
    data, entry = run.store.read_entry(uri)
    rows = run.parse_annotations(uri, data)
    is_wanted = np.isin(rows["image_id"].to_numpy(), wanted)
    if is_wanted.all():
        return
    keep_images(run, file, names_in(rows), wanted)
    run.check_fence()
    kept = parquet_bytes(rows.filter(pa.array(is_wanted)))
    if not run.store.replace(uri, kept, entry.version, staging=run.staging):
        raise TransientError(f"{uri}: other writers in the way")  # or an earlier request of ours that was slow


def sweep(run: RunDirectory, plan: Plan, there: Mapping[str, Entry]) -> None:
    """Delete files that the plan does not name, and staged units that nothing will use, each before its sidecars.

    A writer that was thought dead, or a plan that was replaced, may have left them.
    """
    named = set(plan.names())
    run.delete(entry.uri for name, entry in there.items() if name not in named)
    unused = [unit for unit in staged(run) if (file := file_and_part(unit)[0]) not in named or file in there]
    run.delete(run.path(part_path(file_and_part(unit)[0], unit)) for unit in unused)
    run.store.prune(run.path("_state/parts"))
    sweep_sidecars(run, named, there.keys())


def join_whole(
    run: RunDirectory, plan: Plan, there: Collection[str], units: Iterable[str], each: Each = map
) -> list[str]:
    """Join the files of the plan of which all units are staged, as a kill may leave them, and return their names."""
    by_file: dict[str, list[str]] = {}
    for unit in units:
        by_file.setdefault(file_and_part(unit)[0], []).append(unit)
    left = {*plan.names()}.difference(there) if by_file else set()
    whole = {
        file: parts
        for file, parts in by_file.items()
        if file in left and len(parts) == file_and_part(parts[0])[2] and parts == _all_parts(file, len(parts))
    }
    do_all(each, _join, ((run, file, parts) for file, parts in whole.items()))
    return [*whole]


def _join(arguments: tuple[RunDirectory, str, list[str]]) -> None:
    join(*arguments)


def _all_parts(file: str, parts: int) -> list[str]:
    return [unit_name(file, part, parts) for part in range(parts)]
