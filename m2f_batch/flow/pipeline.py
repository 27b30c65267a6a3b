"""Builds the data flow of a run as one lazy Ray dataset. Open this file first.

units of the manifest, in pieces -> fetch, decode, resize (CPU tasks) -> label, commit (actor pool)

An actor commits what it labeled. So rows cross no process, and the driver has a step less to schedule. Commits in tasks
of their own, which mostly wait, made Ray start dozens of processes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import pyarrow as pa
import ray.data
from ray.actor import ActorHandle
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

from m2f_batch.flow.unit.actor import ActorSettings
from m2f_batch.flow.unit.pieces import Blocks, apart, each_unit
from m2f_batch.flow.unit.stages import preparing
from m2f_batch.flow.workers import GatedActor, Steps, commit, prepare
from m2f_batch.ray_session.resources import Resources
from m2f_batch.runs.held_folder import Fence
from m2f_batch.runs.plan import Units

# Ray reuses a worker process for tasks with equal resource requests. Asking for 0.001 CPU less keeps decoding out of
# the processes that hold a model.
APART = 0.001
# Units per actor in flight. 2 overlap I/O with compute. On CUDA, units also share micro-batches: COCO's photographs at
# 800 / 1333 fill a batch of 8 to 2.9, 4.0 and 4.9 with 1, 2 and 4 units (measured).
UNITS_AT_ONCE = {"cpu": 2, "cuda": 4}


@dataclass(frozen=True)
class Flow:
    """The settings of the data flow. Without a ``fence`` nothing can be committed."""

    run_uri: str
    actor: ActorSettings
    resources: Resources
    max_pixels: int
    fetch_threads: int
    fence: Fence | None = None
    steps: Steps = field(default_factory=Steps)


def build(units: Units, flow: Flow, gate: ActorHandle) -> Dataset:
    """Build the dataset: one row per unit, at the end what was committed of it. Iterating it runs it.

    OUTPUT is opened through ``gate`` as soon as the model was seen to load, and before anything is labeled.
    """
    (first,) = units.part(0, 1)["unit"].to_pylist() if flow.resources.may_wait else (None,)
    gated = {"gate": gate, "first": first, "actor": flow.actor, "steps": flow.steps}
    committing = partial(commit, run_uri=flow.run_uri, fence=flow.fence, gate=gate)
    return labeled(units, flow, gate, prepare, gated, committing)


def labeled(
    units: Units,
    flow: Flow,
    gate: ActorHandle | None,
    step: Callable[..., pa.Table] | None = None,
    options: Mapping[str, Any] | None = None,
    then: Callable[[pa.Table], pa.Table] | None = None,
) -> Dataset:
    """Build the dataset up to the labels: one row per unit, or what the actor makes of it by ``then``.

    Ray starts tasks and actors again for as long as their processes die, because nodes come and go. ``workers`` and
    ``gate`` see to it that no image makes them die for ever.
    """
    resources = flow.resources
    each = preparing(flow.actor.labeling, flow.max_pixels, flow.fetch_threads)
    dataset = _pieces(units).map_batches(
        each_unit,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=resources.cpus_per_task - APART,
        fn_kwargs={"step": step or flow.steps.prepare, **each, **(options or {})},
    )
    return dataset.map_batches(
        GatedActor,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_args=(flow.actor, gate, flow.steps, then),
        compute=_pool(resources),
        num_cpus=resources.cpus_per_actor,
        num_gpus=resources.gpus_per_actor,
    )


def _pool(resources: Resources) -> ActorPoolStrategy:
    """Return the actor pool: fixed, or growing and shrinking between its bounds.

    Ray Data adds replicas only where the nodes that are there have room, and asks for twice as many nodes each time.
    So replicas that are worth a node each are asked for from the start, and each works as soon as its node is up.
    """
    low, high = resources.actors
    return ActorPoolStrategy(
        min_size=low,
        max_size=high,
        initial_size=resources.asked_at_once,
        max_concurrent_calls_per_actor=UNITS_AT_ONCE[resources.device],
        enable_true_multi_threading=True,  # or Ray would call the actor with one unit at a time
    )


def _pieces(units: Units) -> Dataset:
    """Return a block per piece. Where there are many, a task takes pieces apart when their units are needed."""
    blocks = Blocks(units)
    dataset = ray.data.from_blocks(
        cast("list[pa.Table]", blocks)
    )  # from_blocks goes over them, and asks for nothing else
    if blocks.are_pieces:
        return dataset
    alone = TaskPoolStrategy(size=1)  # one task is quick enough, and Ray Data keeps no CPUs for more
    return dataset.map_batches(apart, batch_size=None, batch_format="pyarrow", num_cpus=APART, compute=alone)
