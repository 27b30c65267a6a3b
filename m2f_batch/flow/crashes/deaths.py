"""Counts, per unit, the worker processes that died while they worked on it.

This is the only trace of an image that crashes its process.

A count is a reason to be careful, and no proof: Ray tries a task again while its first try still runs, and a process
also dies of a lost node, or with the neighbor whose image it was.
"""

import threading
from collections import Counter

CAREFUL_AFTER = 2  # tries of a unit that did not end: from then on it runs image by image in a child process


class Deaths:
    """Counts units under way and replicas that started, as their processes report them. Safe in threads.

    >>> deaths = Deaths()
    >>> [deaths.begin("unit", "prepare") for _ in range(3)]
    [0, 1, 2]
    >>> deaths.end("unit", "prepare")
    >>> deaths.begin("unit", "prepare")
    0
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: Counter[tuple[str, str]] = Counter()  # of units under way only, so it stays small
        self._replicas = 0

    def begin(self, unit: str, stage: str) -> int:
        """Begin this stage of the unit. Returns how often it was begun before, since it last ended."""
        with self._lock:
            self._begun[unit, stage] += 1
            return self._begun[unit, stage] - 1

    def end(self, unit: str, stage: str) -> None:
        """End the stage of the unit, in whichever try. An error that it raised is an end too."""
        with self._lock:
            self._begun.pop((unit, stage), None)

    def in_flight(self) -> set[tuple[str, str]]:
        """(unit, stage) of what was begun and has not ended."""
        with self._lock:
            return set(self._begun)

    def replica_started(self) -> int:
        """Count a replica that loads its model. Returns how many did so since a unit was last labeled, with this one.

        A model that crashes its process lets this grow for ever. A whole pool that starts counts too: bound it by the
        largest number of replicas and some more.
        """
        with self._lock:
            self._replicas += 1
            return self._replicas

    def unit_labeled(self) -> None:
        """A replica has labeled a unit: models load."""
        with self._lock:
            self._replicas = 0
