"""Runs the stages of a unit on the nodes of a cluster: asks the gate, and takes care of units whose workers died.

A unit whose workers died twice is prepared, or labeled, image by image in a child process. The image that crashes its
process becomes a row, and the others are labeled as usual.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from ray.actor import ActorHandle

from m2f_batch.errors import RunError
from m2f_batch.flow.crashes.deaths import CAREFUL_AFTER
from m2f_batch.flow.crashes.gate import answer_of
from m2f_batch.flow.crashes.in_flight import DONE
from m2f_batch.flow.crashes.isolated import IsolatedSegmenter, prepare_isolated
from m2f_batch.flow.unit.actor import ActorSettings, SegmentActor, check_processor, load_segmenter
from m2f_batch.flow.unit.labeler import Labeler
from m2f_batch.flow.unit.stages import (
    COMMITTED_BEFORE,
    Spent,
    commit_unit,
    label_unit,
    prepare_unit,
    prepare_unit_by,
    skipped_unit,
)
from m2f_batch.flow.unit.units import with_seconds
from m2f_batch.models.source import local_directory
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.held_folder import Fence

STOPPING = "the run is being stopped"
GIVEN_UP_AFTER = 8  # deaths of a unit's workers, because something kills even those that only wait for a child


@dataclass(frozen=True)
class Steps:
    """The functions that process a unit. Benchmarks of the scheduler replace them by stubs."""

    prepare: Callable[..., pa.Table] = prepare_unit
    load: Callable[[ActorSettings], Labeler] = load_segmenter
    check: Callable[[ActorSettings], None] = check_processor


def prepare(
    table: pa.Table, *, gate: ActorHandle, first: str | None, actor: ActorSettings, steps: Steps, **options: Any
) -> pa.Table:
    """Prepare one unit, with care where its workers died. The task of the unit ``first`` also tries to load the model.

    ``first`` is None where replicas start as soon as tasks do.
    """
    unit = table["unit"][0].as_py()
    deaths = answer_of(gate.begin, unit, "prepare")
    if deaths is None:
        return skipped_unit(table, STOPPING)
    if deaths == DONE:  # a process with more units died, or an object of Ray's store was lost
        return skipped_unit(table, COMMITTED_BEFORE)
    if unit == first and deaths == 0:  # after a death the model may be what kills
        open_once_it_loads(gate, actor, steps)
    if deaths < CAREFUL_AFTER:
        done = steps.prepare(table, **options)
    elif deaths >= GIVEN_UP_AFTER:
        done = skipped_unit(table, _given_up(deaths))
    else:
        isolated = partial(prepare_isolated, **{name: options[name] for name in ("plan", "cut", "max_pixels")})
        done = prepare_unit_by(table, isolated, Spent())
    gate.end.remote(unit, "prepare")
    return done


class GatedActor(SegmentActor):
    """A replica that labels nothing before the gate is open. Without a gate it labels at once.

    ``then`` is done to each labeled unit while another one computes: see ``commit``.
    """

    def __init__(
        self,
        settings: ActorSettings,
        gate: ActorHandle | None,
        steps: Steps,
        then: Callable[[pa.Table], pa.Table] | None = None,
    ) -> None:
        self._gate, self._settings, self._then = gate, settings, then
        self._problem: Exception | None = None
        local_directory(settings.source)  # a download that fails here raises, and Ray Data tries the actor again
        try:
            if gate is not None:
                answer_of(gate.check_replicas)
            with _fast_imports():
                self.segmenter = steps.load(settings)
                steps.check(settings)
        except RunError as error:  # Ray's own error for an actor that does not start is no message
            self._problem = error
            return
        if gate is not None:
            gate.open.remote()  # the first unit that is labeled asks whether that succeeded

    def __call__(self, table: pa.Table) -> pa.Table:
        """Label one prepared unit, then do ``then``. Raises RunError when the model does not load."""
        done = self._labeled(table)
        return done if self._then is None else self._then(done)

    def _labeled(self, table: pa.Table) -> pa.Table:
        if self._problem is not None:
            raise self._problem
        if self._gate is None:
            return super().__call__(table)
        unit, transient = table["unit"][0].as_py(), table["transient"][0].as_py()
        if transient is not None:
            return super().__call__(table)  # it has no images
        deaths = answer_of(self._gate.begin, unit, "label")
        if deaths is None:
            return super().__call__(skipped_unit(table, STOPPING))
        if deaths == DONE:  # by a replica that died before it could say so to the driver
            return super().__call__(skipped_unit(table, COMMITTED_BEFORE))
        if deaths < CAREFUL_AFTER:
            return super().__call__(table)
        if deaths >= GIVEN_UP_AFTER:
            return super().__call__(skipped_unit(table, _given_up(deaths)))
        return label_unit(table, IsolatedSegmenter(self._settings, checked=self.segmenter.checked))


def commit(table: pa.Table, *, run_uri: str, fence: Fence | None, gate: ActorHandle) -> pa.Table:
    """Commit one labeled unit."""
    begun = time.perf_counter()
    done = commit_unit(table, run=open_directory(run_uri, fence))
    gate.left.remote(table["unit"][0].as_py(), done["transient"][0].as_py() is None)
    return with_seconds(done, {"write": time.perf_counter() - begun})


def open_once_it_loads(gate: ActorHandle, settings: ActorSettings, steps: Steps) -> None:
    """Load the model on this node's CPU, and open the gate. Raises RunError when it does not load."""
    see_it_load(settings, steps)
    gate.open.remote()  # replicas ask whether that succeeded


def see_it_load(settings: ActorSettings, steps: Steps) -> None:
    """Load the model on this node's CPU. Raises RunError when it does not load."""
    with _fast_imports():
        if steps.load is load_segmenter:
            import torch

            from m2f_batch.models.loading import load_model

            load_model(local_directory(settings.source), torch.device("cpu"), task=settings.labeling.task)
        steps.check(settings)


def _given_up(deaths: int) -> str:
    return f"{deaths} processes died while they worked on one unit, even image by image; see the logs of Ray's workers"


@contextmanager
def _fast_imports() -> Iterator[None]:
    """Import without looking for garbage, because a million objects are made and none is garbage: a sixth less time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
