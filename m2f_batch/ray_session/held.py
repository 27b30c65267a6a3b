"""What the nodes of a cluster hold of a run."""

from typing import NamedTuple


class Held(NamedTuple):
    """What the nodes hold at a moment: tasks that fetch and decode at once, and replicas."""

    preparing: float
    replicas: float
