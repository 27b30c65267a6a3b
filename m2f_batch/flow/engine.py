"""Runs the units of an attempt on Ray: OUTPUT is opened on the cluster once a model has loaded, then units stream."""

from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from functools import partial

import ray
from ray.actor import ActorHandle
from ray.data import Dataset
from ray.exceptions import GetTimeoutError, NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError

from m2f_batch.flow.attempt.finish import FEW_FILES
from m2f_batch.flow.attempt.follow import Started
from m2f_batch.flow.attempt.hold_output import Attempt
from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.flow.attempt.output_state import Work
from m2f_batch.flow.crashes.gate import answer_of, gate_for
from m2f_batch.flow.pipeline import Flow, build
from m2f_batch.flow.unit.stages import COMMITTED_BEFORE
from m2f_batch.flow.unit.units import DoneUnit
from m2f_batch.flow.watch.busy import Slots
from m2f_batch.flow.workers import see_it_load
from m2f_batch.ray_session.nodes import held_now, present
from m2f_batch.ray_session.tasks import on_cluster
from m2f_batch.runs.plan import Units

Results = Generator[DoneUnit, None, None]
DRAIN_TIMEOUT = 5.0  # seconds for an answer of the gate


def start_on_ray(flow: Flow, attempt: Attempt, units: Units) -> Started:
    """Start the units on Ray. The first process whose model has loaded asks for OUTPUT to be opened."""
    resources = flow.resources
    there, asked = resources.held(present()), partial(held_now, resources)
    slots = Slots(resources.device, there.preparing, flow.fetch_threads, there.replicas, asked)
    if not len(units):
        base = begin(attempt.run, attempt.work, on_cluster if attempt.work.change.rewritten > FEW_FILES else map)
        return Started(_nothing(), lambda: base, None, slots)
    work = ray.put(attempt.work)
    gate = gate_for(flow.run_uri, attempt.fence, work, flow.resources.actors[1])

    def drained() -> bool:
        try:
            return bool(ray.get(gate.drain.remote(), timeout=DRAIN_TIMEOUT) == 0)
        except (RayError, GetTimeoutError):
            return True  # without a gate nothing is in flight

    def deaths() -> int:
        # asked every few seconds, also of a gate that was just closed, so nobody waits long for an answer
        try:
            return int(ray.get(gate.deaths.remote(), timeout=DRAIN_TIMEOUT))
        except (RayError, GetTimeoutError):
            return 0

    stream = results_of(build(units, replace(flow, fence=attempt.fence), gate))
    if attempt.work.change.rewritten > FEW_FILES:
        stream = once_rewritten(flow, attempt, stream)
    opened = partial(answer_of, gate.opened)
    return Started(stream, opened, drained, slots, deaths, partial(_kill, gate, work))


def once_rewritten(flow: Flow, attempt: Attempt, stream: Results) -> Results:
    """Yield from ``stream`` once CPUs of the cluster have rewritten OUTPUT, because a GPU that is there would wait.

    Nothing is written before a model was seen to load. The gate then finds that nothing is left to do.
    """
    # without Ray's own tries, because it would start a task with too little memory again for ever
    looking = ray.remote(num_cpus=flow.resources.cpus_per_task, max_retries=0)(see_it_load)
    # where its process dies, a replica may still have the memory, and OUTPUT is opened as for few files
    with suppress(WorkerCrashedError, OutOfMemoryError, NodeDiedError):
        ray.get(looking.remote(flow.actor, flow.steps))
        attempt.events.say(f"rewrites {attempt.work.change.rewritten:,} files on CPUs first", "rewriting")
        begin(attempt.run, attempt.work, on_cluster)
    yield from stream


def _kill(gate: ActorHandle, _: "ray.ObjectRef[Work]") -> None:
    """End a gate, and let go what is kept for it."""
    with suppress(RayError):
        ray.kill(gate)


def _nothing() -> Generator[DoneUnit, None, None]:
    yield from ()


def results_of(dataset: Dataset) -> Generator[DoneUnit, None, None]:
    """Yield what was committed of each unit.

    A unit that was committed before is left out, because it was yielded then, or the files are counted at the end.
    """
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from (unit for unit in batch.to_pylist() if unit["transient"] != COMMITTED_BEFORE)
