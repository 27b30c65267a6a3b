"""Holds the numbers of slots that a run has at a moment on the nodes of a cluster (see ``Resources.held``)."""

from typing import NamedTuple


class SlotCounts(NamedTuple):
    """The tasks that fetch and decode at once, and the replicas."""

    preparing: float
    replicas: float
