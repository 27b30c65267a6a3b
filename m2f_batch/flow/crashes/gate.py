"""The gate is a light actor on the driver's node: it opens OUTPUT once a model has loaded, and tracks units.

A run's first write waits for the model, and importing what loads it takes seconds. So nobody waits for a check:
replicas ask for the gate to be opened when they have loaded theirs. Where they need GPUs, which may come late, the
worker that fetches the first unit loads the model on its CPU too, and asks as well.

Whoever works on a unit says so before and after: a unit whose workers died more than once is then handled with care,
one that was committed is not made again with the rest of a task that died, and a run that is to stop lets what is being
labeled finish, and begins nothing more.
"""

import threading
import time
from typing import Any, Literal

import ray
from ray.actor import ActorHandle, ActorMethod
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.flow.attempt.output_state import Work
from m2f_batch.flow.crashes.in_flight import InFlight
from m2f_batch.ray_session.errors import run_error
from m2f_batch.runs.directory import RunDirectory, open_directory
from m2f_batch.runs.held_folder import Fence
from m2f_batch.runs.tally import Tally

THREADS, WAITING = 16, 5  # and so many more for each replica
PATIENCE_SECONDS = 60.0  # until Ray has started the actor again


class Opening:
    """Opens OUTPUT when it is first asked to, once. Safe in threads."""

    def __init__(self, run: RunDirectory, work: list["ray.ObjectRef[Work]"]) -> None:
        self._run, self._work = run, work
        self._lock = threading.Lock()
        self.before: Tally | None = None  # the tally of earlier attempts, once OUTPUT is open

    def open(self) -> None:
        """Return when OUTPUT is as the plan says. Raises what ``begin`` does."""
        with self._lock:
            if self.before is None:
                self.before = begin(self._run, ray.get(self._work[0]))


class Gate:
    """The actor: the opening of OUTPUT, and the units in flight. Its methods may run at the same time.

    Where Ray started it again it knows nothing: OUTPUT is opened again, and committed units may be made once more.
    """

    def __init__(self, run_uri: str, fence: Fence, work: list["ray.ObjectRef[Work]"], replicas: int) -> None:
        self._opening = Opening(open_directory(run_uri, fence), work)
        self._units = InFlight(replicas)

    def open(self) -> None:
        """Return when OUTPUT is as the plan says. Raises what ``begin`` does."""
        self._opening.open()

    def opened(self) -> Tally | None:
        """Return the tally of earlier attempts. None as long as the gate is closed."""
        return self._opening.before

    def deaths(self) -> int:
        """Count the units that were begun again because a process that worked on them had died."""
        return self._units.begun_again

    def begin(self, unit: str, stage: str) -> int | Literal["done"] | None:
        """Begin a stage of a unit. Returns how many of its workers died before, None (leave it) or DONE.

        Nothing is labeled before OUTPUT is as the plan says. Raises what ``begin`` does.
        """
        if stage == "label" and self._units.may_begin(unit):
            self._opening.open()
        return self._units.begin(unit, stage)

    def end(self, unit: str, stage: str) -> None:
        """End the stage of the unit."""
        self._units.end(unit, stage)

    def left(self, unit: str, is_committed: bool) -> None:
        """End the labeling of the unit by a replica: it was committed, or given up."""
        self._units.leave(unit, is_committed)

    def check_replicas(self) -> None:
        """Begin a replica. Raises RunError when many have begun, and none of them has labeled anything."""
        self._units.begin_replica()

    def drain(self) -> int:
        """Let nothing more begin. Returns how many units are still being labeled or committed."""
        return self._units.drain()


def answer_of(method: ActorMethod, *arguments: object) -> Any:  # Ray gives no types
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
    """Return a gate on the driver's node, where OUTPUT was checked with the keys that this node has.

    The caller keeps ``work`` for as long as the gate: one that is started again needs it.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options: dict[str, object] = {
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": -1,
        "scheduling_strategy": here,
    }
    # calls of replicas may all wait for OUTPUT to be opened, and others must be answered meanwhile
    kind = ray.remote(Gate).options(max_concurrency=THREADS + WAITING * replicas, **options)
    # in a list, so that it is not fetched before it is needed
    return kind.remote(run_uri, fence, [work], replicas)
