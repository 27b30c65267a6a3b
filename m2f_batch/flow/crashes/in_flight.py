"""Tracks the units of a run that are in flight, those that are committed, and whether more may begin. Loads no Ray."""

from typing import Literal

from m2f_batch.errors import RunError
from m2f_batch.flow.crashes.deaths import Deaths
from m2f_batch.flow.unit.unit_names import UnitNames

# replicas that may start, beyond those of the pool, without a single unit labeled
STARTS_IN_VAIN = 10
DONE: Literal["done"] = "done"


class InFlight:
    """Units and replicas as their processes report them. ``replicas`` is the size of the pool. Safe in threads."""

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas
        self._deaths, self._begun_again, self._is_draining = Deaths(), 0, False
        self._committed = UnitNames()

    @property
    def begun_again(self) -> int:
        """Units that were begun again because a process that worked on them had died."""
        return self._begun_again

    def may_begin(self, unit: str) -> bool:
        """Return whether anything is left to do for the unit in this run."""
        return not self._is_draining and unit not in self._committed

    def begin(self, unit: str, stage: str) -> int | Literal["done"] | None:
        """Begin a stage of a unit. Returns how many of its workers died before, None (leave it) or DONE."""
        if self._is_draining:
            return None
        if unit in self._committed:
            return DONE
        deaths = self._deaths.begin(unit, stage)
        self._begun_again += deaths > 0
        return deaths

    def end(self, unit: str, stage: str) -> None:
        """End the stage of the unit."""
        self._deaths.end(unit, stage)

    def leave(self, unit: str, is_committed: bool) -> None:
        """End the labeling of the unit by a replica: it was committed, or given up."""
        self._deaths.end(unit, "label")
        if is_committed:
            self._deaths.unit_labeled()
            self._committed.add(unit)

    def begin_replica(self) -> None:
        """Begin a replica. Raises RunError when many have begun, and none of them has labeled anything."""
        if self._deaths.replica_started() > self._replicas + STARTS_IN_VAIN:
            raise RunError("replicas die before they label anything, again and again; see the logs of the Ray workers")

    def drain(self) -> int:
        """Let nothing more begin. Returns how many units are still being labeled or committed."""
        self._is_draining = True
        return sum(stage == "label" for _, stage in self._deaths.in_flight())
