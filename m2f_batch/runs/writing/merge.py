"""Merges small files of a run into larger ones when a new plan says so."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from m2f_batch.errors import RunError
from m2f_batch.runs.assignment import assigned_of
from m2f_batch.runs.directory import RunDirectory, parquet_bytes
from m2f_batch.runs.plan import Change, Plan, unit_name
from m2f_batch.runs.writing.commit import file_path, part_path
from m2f_batch.runs.writing.map_files import Each, do_all
from m2f_batch.runs.writing.sidecars import (
    names_in,
    of_images,
    read_sidecars,
    sidecar_path,
    staged_sidecar_path,
    with_names,
    write_sidecar,
)
from m2f_batch.storage.retries import retry_write
from m2f_batch.storage.store import Entry

_Merge = tuple[RunDirectory, str, NDArray[np.int64], int, Sequence[str]]


def stage_merged(run: RunDirectory, plan: Plan, change: Change, there: Mapping[str, Entry], each: Each = map) -> None:
    """Stage the rows of small files as all units of the files that they are merged to, while the small ones remain.

    Once the plan is written, ``sweep`` deletes the small files and ``join_whole`` writes the others. So no reader sees
    a row twice, and a kill in between loses none. ``each`` maps over the files, in any order.
    """
    # a file whose sources are gone was staged before, and the plan written
    left = {file: sources for file, sources in change.merged.items() if set(sources) <= there.keys()}
    if left:
        files, size = assigned_of(plan.manifest()), plan.images_per_unit
        do_all(each, _stage, ((run, file, files.ids(file), size, sources) for file, sources in left.items()))


def _stage(arguments: _Merge) -> None:
    run, file, wanted, size, sources = arguments
    tables = {source: retry_write(partial(run.read_annotations, run.path(file_path(source)))) for source in sources}
    rows = pa.concat_tables(tables.values()).combine_chunks()
    names = sorted({name for table in tables.values() for name in names_in(table)})
    sidecars = {
        name: read_sidecars(run, [sidecar_path(name, source) for source in sources if name in names_in(tables[source])])
        for name in names
    }
    place = {image: at for at, image in enumerate(rows["image_id"].to_pylist())}
    ids = wanted.tolist()
    if not place.keys() >= set(ids):
        uris = [run.path(file_path(source)) for source in sources]
        raise RunError(f"{run.uri}: a row is missing in one of {', '.join(uris)}; delete that file, it is made again")
    parts = -(-len(ids) // size)
    for part in range(parts):
        mine = wanted[part * size : (part + 1) * size]
        chosen = with_names(rows.take([place[image] for image in mine.tolist()]), names)
        unit = unit_name(file, part, parts)
        path = part_path(file, unit)
        for name, table in sidecars.items():
            write_sidecar(run, name, staged_sidecar_path(name, file, unit), of_images(table, mine), path)
        retry_write(partial(run.write_new, path, parquet_bytes(chosen)))
