"""The file to open first: a run's data flow as one lazy Ray dataset.

units of the manifest -> fetch, decode, resize (CPU tasks) -> label (actor pool) -> commit (CPU tasks)
"""

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data
from ray.actor import ActorHandle
from ray.data import ActorPoolStrategy, Dataset

from m2f_batch.flow.actor import ActorSettings
from m2f_batch.flow.cluster import Resources
from m2f_batch.flow.gate import GatedActor, open_once_it_loads
from m2f_batch.flow.stages import commit_unit, prepare_unit
from m2f_batch.flow.units import unit_table, with_seconds
from m2f_batch.storage.run import Unit, open_run

COMMIT_CPUS = 0.1  # waits for storage, hardly computes
# Ray's own default is to restart for ever: an image that crashes the process would loop
MAX_BLOCKS = 2000  # each costs Ray's driver some 50 KB and milliseconds
MAX_RESTARTS, MAX_RETRIES = 3, 3
# units that an actor works on at once: one is unpacked or packed while another computes; on CUDA more, since they share
# micro-batches: COCO's photographs at 800 / 1333 fill one of 8 to 2.9, 4.0 and 4.9 with 1, 2 and 4 units
UNITS_AT_ONCE = {"cpu": 2, "cuda": 4}


@dataclass(frozen=True)
class Flow:
    """The settings of the four steps."""

    run_uri: str
    actor: ActorSettings
    resources: Resources
    max_pixels: int
    fetch_threads: int


def build(units: Iterable[Unit], flow: Flow, gate: ActorHandle) -> Dataset:
    """One row per unit, at the end what was committed of it. Nothing runs before the dataset is iterated.

    OUTPUT is claimed through ``gate`` as soon as the model was seen to load, and before anything is labelled.
    """
    units = list(units)
    prepare = partial(_prepare, first=units[0].name, gate=gate, actor=flow.actor)
    return labelled(units, flow, gate, prepare=prepare).map_batches(
        _commit, batch_size=1, batch_format="pyarrow", num_cpus=COMMIT_CPUS, fn_kwargs={"run_uri": flow.run_uri}
    )


def labelled(
    units: Iterable[Unit], flow: Flow, gate: ActorHandle | None, prepare: Callable[..., pa.Table] = prepare_unit
) -> Dataset:
    """The same up to the rows: one row per unit, of ``LABELLED_SCHEMA``."""
    resources = flow.resources
    dataset = ray.data.from_arrow(_blocks([unit_table(unit) for unit in units]))
    dataset = dataset.map_batches(
        prepare,
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
        return dataset.map_batches(
            GatedActor,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(flow.actor, gate),
            compute=_pool(resources),
            num_cpus=resources.cpus_per_actor,
            num_gpus=resources.gpus_per_actor,
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_RETRIES,
        )


def _pool(resources: Resources) -> ActorPoolStrategy:
    """The actor pool: fixed, or growing and shrinking between its bounds."""
    low, high = resources.actors
    bounds = {"size": low} if low == high else {"min_size": low, "max_size": high}
    return ActorPoolStrategy(
        **bounds,
        max_concurrent_calls_per_actor=UNITS_AT_ONCE[resources.device],
        enable_true_multi_threading=True,  # or Ray would call the actor with one unit at a time
    )


def _blocks(tables: list[pa.Table]) -> list[pa.Table]:
    """A block per unit, until there are so many that blocks themselves would cost the driver."""
    size = -(-len(tables) // MAX_BLOCKS)
    return [pa.concat_tables(tables[at : at + size]).combine_chunks() for at in range(0, len(tables), size)]


def _prepare(table: pa.Table, *, first: str, gate: ActorHandle, actor: ActorSettings, **options: Any) -> pa.Table:
    if table["unit"][0].as_py() == first:
        open_once_it_loads(gate, actor)
    return prepare_unit(table, **options)


def _commit(table: pa.Table, *, run_uri: str) -> pa.Table:
    begun = time.perf_counter()
    done = commit_unit(table, run=open_run(run_uri))
    return with_seconds(done, {"write": time.perf_counter() - begun})
