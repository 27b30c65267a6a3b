"""A set of names of units that stays small: at 10^8 images they are millions."""

import threading

from m2f_batch.runs.plan import file_and_part


class UnitNames:
    """Names of units, a bit each. Safe in threads.

    >>> names = UnitNames()
    >>> names.add("file-00001-of-00003")
    >>> [name in names for name in ("file-00001-of-00003", "file-00002-of-00003", "file", "other-00001-of-00003")]
    [True, False, False, False]
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: dict[tuple[str, int], int] = {}  # of each file and its number of parts

    def add(self, unit: str) -> None:
        """Add the name of a unit."""
        file, part, parts = file_and_part(unit)
        with self._lock:
            self._parts[file, parts] = self._parts.get((file, parts), 0) | 1 << part

    def __contains__(self, unit: str) -> bool:
        file, part, parts = file_and_part(unit)
        return bool(self._parts.get((file, parts), 0) >> part & 1)
