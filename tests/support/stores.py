"""Forgets the stores that this process has opened, and with them the endpoint and keys they were opened with."""

from m2f_batch.storage import places


def reset_stores() -> None:
    """Forget the opened stores, where a test has set other variables or keys."""
    places._open.cache_clear()
