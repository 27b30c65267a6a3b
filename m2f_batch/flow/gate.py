"""OUTPUT is touched as soon as any process has seen the model load, and by one process only.

A run's first write waits for the model, and importing what loads it takes seconds. So nobody waits for a check: the
worker that fetches the first unit loads the model too, since it has imported most of that anyway, and replicas load
theirs at the same time. Whoever is first asks for the claim, and one light actor makes it.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from m2f_batch.errors import RunError
from m2f_batch.flow.actor import ActorSettings, SegmentActor, check_processor
from m2f_batch.flow.claim import claim
from m2f_batch.flow.cluster import run_error
from m2f_batch.storage.model_source import local_directory
from m2f_batch.storage.run import open_run


class Gate:
    """Claims OUTPUT when it is first asked to."""

    def __init__(self, run_uri: str, info: dict[str, Any], manifest: list["ray.ObjectRef[pa.Table]"], over: str | None):
        self._run, self._info, self._manifest, self._over = open_run(run_uri), info, manifest, over
        self._is_open = False

    def open(self) -> None:
        """Return when OUTPUT is ours. Raises UsageError when it is another's."""
        if not self._is_open:
            claim(self._run, self._info, ray.get(self._manifest[0]), over=self._over)
            self._is_open = True


def gate_for(run_uri: str, info: dict[str, Any], manifest: pa.Table, over: str | None) -> ActorHandle:
    """A gate on the driver's node, where OUTPUT was checked with the keys that this node has."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": 3, "max_task_retries": 3, "scheduling_strategy": here}
    # in a list, so that it is not fetched before it is needed
    return ray.remote(Gate).options(**options).remote(run_uri, info, [ray.put(manifest)], over)


class GatedActor(SegmentActor):
    """A replica that labels nothing before the gate is open; without a gate, at once."""

    def __init__(self, settings: ActorSettings, gate: ActorHandle | None) -> None:
        self._opened = None
        self._problem: RunError | None = None
        local_directory(settings.source)  # a download that fails here raises, and Ray Data tries the actor again
        try:
            with _fast_imports():
                super().__init__(settings)
                check_processor(settings)
        except RunError as error:  # what Ray makes of an actor that does not start is no message
            self._problem = error
            return
        if gate is not None:
            self._opened = gate.open.remote()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Label one prepared unit. Raises RunError when the model does not load."""
        if self._problem is not None:
            raise self._problem
        if self._opened is not None:
            try:
                ray.get(self._opened)
            except RayError as error:
                raise run_error(error) from None
        return super().__call__(table)


def open_once_it_loads(gate: ActorHandle, settings: ActorSettings) -> None:
    """Load the model on this node's CPU, and open the gate. Raises RunError when it does not load."""
    with _fast_imports():
        import torch

        from m2f_batch.vision.model import load_model

        load_model(local_directory(settings.source), torch.device("cpu"))
        check_processor(settings)
    gate.open.remote()  # whether that succeeds is asked by those who label


@contextmanager
def _fast_imports() -> Iterator[None]:
    """Without looking for garbage: importing makes a million objects, and none is; a sixth of its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
