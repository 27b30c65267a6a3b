"""Notes how far the reading of a dataset is, where it takes longer than a person waits without a word."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from m2f_batch.messages.notes import note

_FIRST, _EVERY = 4.0, 15.0  # seconds until the first line, and from one to the next

_T = TypeVar("_T")


def with_progress(items: Iterable[_T], total: int | None, what: str) -> Iterator[_T]:
    """Yields the items, and notes "read 1,200 of 4,680 ``what``" now and then. ``total`` None: it is not known."""
    of_all = "" if total is None else f" of {total:,}"
    due = time.monotonic() + _FIRST
    for number, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now >= due:
            note(f"read {number:,}{of_all} {what}")
            due = now + _EVERY
