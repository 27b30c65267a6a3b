"""Counts the slots of a run on the nodes of a cluster."""

from typing import NamedTuple


class Held(NamedTuple):
    """Slots at a moment: tasks that fetch and decode at once, and replicas."""

    preparing: float
    replicas: float
