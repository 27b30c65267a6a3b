"""A rule for Ray Data: no more is made than is soon taken, so that a node which dies holds little that was made.

By default an operator goes on until what it made fills half of its share of Ray's store: hundreds of prepared units, if
replicas are what a run waits for, and all that lie on a node are fetched again when it is lost.
"""

from typing import TYPE_CHECKING

from ray.data import DataContext
from ray.data._internal.execution.backpressure_policy import (  # where Ray keeps what the setting below names
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
)
from ray.data._internal.execution.backpressure_policy.backpressure_policy import BackpressurePolicy

if TYPE_CHECKING:
    from ray.data._internal.execution.interfaces.physical_operator import PhysicalOperator

LEAST = 4  # blocks that may always wait


class FewWaiting(BackpressurePolicy):  # type: ignore[misc]  # Ray's is not typed for users
    """An operator begins nothing while as many of its blocks wait as the next operator works on."""

    def can_add_input(self, op: "PhysicalOperator") -> bool:
        """Whether ``op`` may begin a task."""
        return all(
            self._topology[taker].total_enqueued_input_blocks() < max(LEAST, taker.num_active_tasks())
            for taker in op.output_dependencies
        )


def set_few_waiting(context: DataContext) -> None:
    """Let the rule hold, beside Ray's own."""
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, FewWaiting])
