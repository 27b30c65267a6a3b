"""Applies a function to each file of a run, in this process or in many."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]  # a map that may work in any order


def do_all(each: Each, act: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Call ``act`` on every item."""
    deque(each(act, items), maxlen=0)
