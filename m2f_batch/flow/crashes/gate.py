"""The gate is a light actor on the driver's node: it opens OUTPUT once a model has loaded, and tracks units.

A run's first write waits for the model, and importing what loads it takes seconds. So nobody waits for a check: the
worker that fetches the first unit loads the model too, since it has imported most of that anyway, and replicas load
theirs at the same time. Whoever is first asks for the gate to be opened.

Whoever works on a unit says so before and after: a unit whose workers died more than once is then handled with care,
one that was committed is not made again with the rest of a task that died, and a run that is to stop lets what is being
labeled finish, and begins nothing more.
"""

import threading
import time
from typing import Any, Literal

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from m2f_batch.errors import RunError
from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.flow.attempt.output_state import Work
from m2f_batch.flow.crashes.deaths import Deaths
from m2f_batch.flow.unit.unit_names import UnitNames
from m2f_batch.ray_session.session import run_error
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.held_folder import Fence
from m2f_batch.runs.tally import Tally

# replicas that may start, beyond those of the pool, without a single unit labeled
STARTS_IN_VAIN = 10
THREADS, WAITING = 16, 5  # and so many more for each replica
PATIENCE_SECONDS = 60.0  # until Ray has started the actor again
DONE: Literal["done"] = "done"


class Gate:
    """Opens OUTPUT when it is first asked to, and tracks units in flight. Its methods may run at the same time."""

    def __init__(self, run_uri: str, fence: Fence, work: list["ray.ObjectRef[Work]"], replicas: int) -> None:
        self._run, self._work, self._replicas = open_directory(run_uri, fence), work, replicas
        self._lock = threading.Lock()
        self._base: Tally | None = None
        self._deaths, self._died, self._is_draining = Deaths(), 0, False
        self._committed = UnitNames()  # empty again where this actor was started again: then they are made once more

    def open(self) -> None:
        """Return when OUTPUT is as the plan says. Raises what ``begin`` does."""
        with self._lock:
            if self._base is None:
                self._base = begin(self._run, ray.get(self._work[0]))

    def opened(self) -> Tally | None:
        """The tally of earlier attempts. None as long as the gate is closed."""
        return self._base

    def deaths(self) -> int:
        """Units that were begun again because a process that worked on them had died."""
        return self._died

    def begin(self, unit: str, stage: str) -> int | Literal["done"] | None:
        """Begin a stage of a unit. Returns how many of its workers died before, None (leave it) or DONE.

        Nothing is labeled before OUTPUT is as the plan says. Raises what ``begin`` does.
        """
        if self._is_draining:
            return None
        if unit in self._committed:
            return DONE
        if stage == "label":
            self.open()  # again, where this actor was started again
            if self._is_draining:  # since then
                return None
        deaths = self._deaths.begin(unit, stage)
        self._died += deaths > 0
        return deaths

    def end(self, unit: str, stage: str) -> None:
        """The stage of the unit is over."""
        self._deaths.end(unit, stage)

    def left(self, unit: str, is_committed: bool) -> None:
        """A replica is done with the unit: it was committed, or given up."""
        self._deaths.end(unit, "label")
        if is_committed:
            self._deaths.unit_labeled()
            self._committed.add(unit)

    def check_replicas(self) -> None:
        """A replica starts. Raises RunError when many have, and none of them has labeled anything."""
        if self._deaths.replica_started() > self._replicas + STARTS_IN_VAIN:
            raise RunError("replicas die before they label anything, again and again; see the logs of the Ray workers")

    def drain(self) -> int:
        """Let nothing more begin. Returns how many units are still being labeled or committed."""
        self._is_draining = True
        return sum(stage == "label" for _, stage in self._deaths.in_flight())


def answer_of(method: Any, *arguments: Any) -> Any:
    """Ask a method of the gate, though its process or node be lost meanwhile. Raises its errors as ours."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return ray.get(method.remote(*arguments))
        except (ActorUnavailableError, ActorDiedError) as error:
            if time.monotonic() > until:
                raise run_error(error) from None
            time.sleep(1.0)
        except RayError as error:
            raise run_error(error) from None


def gate_for(run_uri: str, fence: Fence, work: "ray.ObjectRef[Work]", replicas: int) -> ActorHandle:
    """A gate on the driver's node, where OUTPUT was checked with the keys that this node has.

    The caller keeps ``work`` for as long as the gate: one that is started again needs it.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    # calls of replicas may all wait for OUTPUT to be opened, and others must be answered meanwhile
    kind = ray.remote(Gate).options(max_concurrency=THREADS + WAITING * replicas, **options)
    # in a list, so that it is not fetched before it is needed
    return kind.remote(run_uri, fence, [work], replicas)
