"""Merges small files of a run into larger ones when a new plan says so."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from m2f_batch.errors import RunError
from m2f_batch.runs.assignment import assigned_of
from m2f_batch.runs.directory import RunDirectory, parquet_bytes
from m2f_batch.runs.plan import Change, Plan, unit_name
from m2f_batch.runs.writing.commit import part_path
from m2f_batch.runs.writing.each import Each, do_all
from m2f_batch.storage.retries import retry_write
from m2f_batch.storage.store import Entry

_Merge = tuple[RunDirectory, str, NDArray[np.int64], int, list[str]]


def stage_merged(run: RunDirectory, plan: Plan, change: Change, there: Mapping[str, Entry], each: Each = map) -> None:
    """Stage the rows of small files as all units of the files that they are merged to, while the small ones remain.

    Once the plan is written, ``sweep`` deletes the small files and ``join_whole`` writes the others. So no reader sees
    a row twice, and a kill in between loses none. ``each`` maps over the files, in any order.
    """
    # a file whose sources are gone was staged before, and the plan written
    left = {file: sources for file, sources in change.merged.items() if set(sources) <= there.keys()}
    if left:
        files, size = assigned_of(plan.manifest()), plan.images_per_unit
        merges = ((run, file, files.ids(file), size, [there[name].uri for name in left[file]]) for file in left)
        do_all(each, _stage, merges)


def _stage(arguments: _Merge) -> None:
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
        name = part_path(file, unit_name(file, part, parts))
        retry_write(partial(run.write_new, name, parquet_bytes(chosen)))
