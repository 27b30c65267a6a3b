"""OUTPUT is touched when the first replica has its model, and by one process only.

A run's first write waits for the model, loading a model takes seconds, and replicas load theirs at the same time: so it
is they who ask for the claim, and one light actor that makes it.
"""

import gc
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
from m2f_batch.storage.run import open_run


class Gate:
    """Claims OUTPUT when it is first asked to."""

    def __init__(self, run_uri: str, info: dict[str, Any], manifest: list["ray.ObjectRef[pa.Table]"], overwrite: bool):
        self._run, self._info, self._manifest, self._overwrite = open_run(run_uri), info, manifest, overwrite
        self._is_open = False

    def open(self) -> None:
        """Return when OUTPUT is ours. Raises UsageError when it is another's."""
        if not self._is_open:
            claim(self._run, self._info, ray.get(self._manifest[0]), overwrite=self._overwrite)
            self._is_open = True


def gate_for(run_uri: str, info: dict[str, Any], manifest: pa.Table, overwrite: bool) -> ActorHandle:
    """A gate on the driver's node, where OUTPUT was checked with the keys that this node has."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": 3, "max_task_retries": 3, "scheduling_strategy": here}
    # in a list, so that it is not fetched before it is needed
    return ray.remote(Gate).options(**options).remote(run_uri, info, [ray.put(manifest)], overwrite)


class GatedActor(SegmentActor):
    """A replica that labels nothing before the gate is open; without a gate, at once."""

    def __init__(self, settings: ActorSettings, gate: ActorHandle | None) -> None:
        self._gate = gate
        self._problem: RunError | None = None
        gc.disable()  # importing makes a million objects, none of them garbage: a sixth of its time
        try:
            super().__init__(settings)
            check_processor(settings)
        except RunError as error:  # what Ray makes of an actor that does not start is no message
            self._problem = error
        finally:
            gc.freeze()
            gc.enable()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Label one prepared unit. Raises RunError when the model does not load."""
        if self._problem is not None:
            raise self._problem
        gate = self._gate  # several threads come here at once
        if gate is not None:
            try:
                ray.get(gate.open.remote())
            except RayError as error:
                raise run_error(error) from None
            self._gate = None
        return super().__call__(table)
