"""Keeps few finished blocks waiting in Ray Data, so that a node which dies loses little of what was made.

By default an operator goes on until its results fill half of its share of Ray's store. Where a run waits for replicas,
those are hundreds of prepared units, and all that lie on a node are fetched again when it is lost.

This uses internals of Ray 2.60 (``ray.data._internal``). When Ray is upgraded, tests/unit/flow/test_pieces.py shows
whether the rule is still asked.
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
        """Tell whether ``op`` may begin a task."""
        return all(
            self._topology[taker].total_enqueued_input_blocks() < max(LEAST, taker.num_active_tasks())
            for taker in op.output_dependencies
        )


def set_few_waiting(context: DataContext) -> None:
    """Add the rule to Ray's own."""
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, FewWaiting])
