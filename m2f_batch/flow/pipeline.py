"""The file to open first: a run's data flow as one lazy Ray dataset.

units of the manifest -> fetch, decode, resize (CPU tasks) -> label (actor pool) -> commit (CPU tasks)
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import ray.data
from ray.data import Dataset

from m2f_batch.flow.actor import ActorSettings, SegmentActor
from m2f_batch.flow.cluster import Resources
from m2f_batch.flow.stages import commit_unit, prepare_unit, unit_table
from m2f_batch.storage.run import Unit, open_run

COMMIT_CPUS = 0.1  # waits for storage, hardly computes
# Ray's own default is to restart for ever: an image that crashes the process would loop
MAX_BLOCKS = 2000  # each costs Ray's driver some 50 KB and milliseconds
MAX_RESTARTS, MAX_RETRIES = 3, 3


@dataclass(frozen=True)
class Flow:
    """The settings of the four steps."""

    run_uri: str
    actor: ActorSettings
    resources: Resources
    max_pixels: int
    fetch_threads: int


def build(units: Iterable[Unit], flow: Flow) -> Dataset:
    """One row per unit, at the end what was committed of it. Nothing runs before the dataset is iterated."""
    resources = flow.resources
    dataset = ray.data.from_arrow(_blocks([unit_table(unit) for unit in units]))
    dataset = dataset.map_batches(
        prepare_unit,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=resources.cpus_per_task,
        fn_kwargs={
            "plan": flow.actor.labeling.preprocess,
            "max_pixels": flow.max_pixels,
            "threads": flow.fetch_threads,
        },
    )
    with warnings.catch_warnings():
        # Ray 2.60 deprecates further remote arguments, and has no other way yet to bound an actor's restarts
        warnings.simplefilter("ignore", DeprecationWarning)
        dataset = dataset.map_batches(
            SegmentActor,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(flow.actor,),
            compute=resources.pool(),
            num_cpus=resources.cpus_per_actor,
            num_gpus=resources.gpus_per_actor,
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_RETRIES,
        )
    return dataset.map_batches(
        _commit, batch_size=1, batch_format="pyarrow", num_cpus=COMMIT_CPUS, fn_kwargs={"run_uri": flow.run_uri}
    )


def _blocks(tables: list[pa.Table]) -> list[pa.Table]:
    """A block per unit, until there are so many that blocks themselves would cost the driver."""
    size = -(-len(tables) // MAX_BLOCKS)
    return [pa.concat_tables(tables[at : at + size]).combine_chunks() for at in range(0, len(tables), size)]


def _commit(table: pa.Table, *, run_uri: str) -> pa.Table:
    return commit_unit(table, run=open_run(run_uri))
