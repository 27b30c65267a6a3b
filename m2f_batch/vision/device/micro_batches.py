"""Chooses which waiting views go through the model together, and how many at once.

Only views of equal canvas share a forward pass, since padding changes logits.
"""

import threading
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Generic, Protocol, TypeVar

from m2f_batch.models.preprocess_plan import SizeHW

LARGEST = 64  # views per micro-batch that is tried and taken unasked
PATIENCE = 8  # full micro-batches that may overtake the oldest view


class OnCanvas(Protocol):
    """A view that waits for the device."""

    @property
    def canvas_hw(self) -> SizeHW:
        """(Hc, Wc) in pixels."""
        ...


Waiting = TypeVar("Waiting", bound=OnCanvas)


class Buffer(Generic[Waiting]):
    """Views that wait for the device, of all callers together. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = count()
        self._groups: dict[SizeHW, deque[tuple[int, Waiting]]] = {}  # none is empty
        self._overtaken = 0  # micro-batches taken before the oldest view's

    def put(self, views: list[Waiting]) -> None:
        """Add views, all at once, so that the next ``take`` sees them together."""
        with self._lock:
            for view in views:
                self._groups.setdefault(view.canvas_hw, deque()).append((next(self._numbers), view))

    def take(self, size_of: Callable[[SizeHW], int]) -> list[Waiting]:
        """Take the next micro-batch, at most ``size_of(canvas)`` views of one canvas. It is empty when nothing waits.

        A full one is taken first, of those the oldest. Where none is full, or when too many have overtaken the oldest
        view, it is the one of that view.
        """
        with self._lock:
            if not self._groups:
                return []
            oldest = min(self._groups, key=self._age)
            full = [canvas for canvas, group in self._groups.items() if len(group) >= size_of(canvas)]
            chosen = min(full, key=self._age) if full and self._overtaken < PATIENCE else oldest
            self._overtaken = 0 if chosen == oldest else self._overtaken + 1
            group = self._groups[chosen]
            views = [group.popleft()[1] for _ in range(min(len(group), size_of(chosen)))]
            if not group:
                del self._groups[chosen]
            return views

    def commonest(self) -> Waiting | None:
        """A view of the canvas that most waiting views have."""
        with self._lock:
            largest = max(self._groups.values(), key=len, default=None)
            return largest[0][1] if largest else None

    def _age(self, canvas: SizeHW) -> int:
        return self._groups[canvas][0][0]


class BatchSizes:
    """Views per micro-batch by canvas: as given for all, or as found for one and scaled to the pixels of others.

    A canvas that once ran out of memory keeps its smaller size.
    """

    def __init__(self, size: int | None) -> None:
        self.size = size  # of the canvas below when it was found, None until then
        self._found_on: SizeHW | None = None
        self._limits: dict[SizeHW, int] = {}

    def found(self, size: int, canvas: SizeHW) -> None:
        """Take a size that was found on a canvas."""
        self.size, self._found_on = size, canvas

    def of(self, canvas: SizeHW) -> int:
        """Views of this canvas that may go together, at least 1."""
        size = self.size or 1
        if self._found_on is not None:
            size = min(LARGEST, size * _pixels(self._found_on) // _pixels(canvas))
        return max(1, min(size, self._limits.get(canvas, size)))

    def halve(self, canvas: SizeHW, failed: int) -> None:
        """Take half as many views of this canvas from now on, since ``failed`` did not fit in memory."""
        self._limits[canvas] = max(1, failed // 2)


def _pixels(size_hw: SizeHW) -> int:
    return size_hw[0] * size_hw[1]


def find_batch_size(
    seconds_of: Callable[[int], float | None], *, largest: int = LARGEST, least_gain: float = 0.05, budget: float = 4.0
) -> int:
    """Find the smallest power of two whose double gives less than ``least_gain`` more views per second.

    ``seconds_of(size)`` times one micro-batch, and says None when it takes more memory than it may. Twice as many
    views take up to twice as long, so no size is tried that might end beyond ``budget`` seconds in all.

    >>> find_batch_size(lambda size: 0.01 * max(size, 8))  # eight views take as long as one
    8
    """
    best, best_rate, spent = 1, 0.0, 0.0
    size = 1
    while size <= largest:
        seconds = seconds_of(size)
        if seconds is None or size / seconds < best_rate * (1 + least_gain):
            break
        best, best_rate, spent = size, size / seconds, spent + seconds
        if spent + 2 * seconds > budget:
            break
        size *= 2
    return best
