"""Counts nodes that a run has lost: taken away or dead, without those that the autoscaler lets go for idleness."""

from contextlib import suppress

IDLE = 4  # NodeDeathInfo.AUTOSCALER_DRAIN_IDLE of Ray 2.60's common.proto


class LostNodes:
    """Counts from now on, and nothing without a Ray session."""

    def __init__(self) -> None:
        self._before = _dead()
        self._lost: set[str] = set()  # Ray forgets the oldest

    def count(self) -> int:
        """Return the number of nodes lost so far."""
        self._lost |= _dead() - self._before
        return len(self._lost)


def _dead() -> set[str]:
    import ray
    from ray.exceptions import RayError

    if not ray.is_initialized():
        return set()
    with suppress(RayError, RuntimeError, ConnectionError):  # a head that is away says it later
        return {str(node["NodeID"]) for node in ray.nodes() if not node["Alive"] and node.get("DeathReason") != IDLE}
    return set()
