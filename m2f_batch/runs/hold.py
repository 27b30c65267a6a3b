"""Holds OUTPUT for one process: takes the lease, keeps it renewed, opens the staging folder, and gives all back.

``flow/attempt/hold_output`` does so for a run, and ``train/output/hold_output`` for a training.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from m2f_batch.errors import RunError, TransientError
from m2f_batch.runs.held_folder import HeldFolder
from m2f_batch.runs.lease import Lease, acquire


@contextmanager
def hold_folder(
    folder: HeldFolder, seconds: float, say: Callable[[str], None], has_begun: Callable[[], bool]
) -> Iterator[Lease]:
    """Hold the folder by a lease that ends ``seconds`` after its last renewal.

    The fence of whatever writes is the token of this lease. ``say`` is told what this waits for. ``has_begun`` is asked
    at the end: if nothing was begun in the folder, the lease leaves no trace there. Raises UsageError when a living
    process holds the folder.
    """
    lease = acquire(folder.store, folder.lease_folder, seconds, say)
    with lease.kept():
        staging = folder.staging_of(lease.token)
        folder.store.open_staging(staging)
        try:
            yield lease
        finally:
            with suppress(TransientError, RunError):
                leave(folder, lease, has_begun)


def leave(folder: HeldFolder, lease: Lease, has_begun: Callable[[], bool]) -> None:
    """Give the folder back. Raises Fenced when another process has taken it over."""
    folder.store.close_staging(folder.staging_of(lease.token))
    lease.check()  # because pruning would remove empty folders of whoever has taken over
    if has_begun():
        folder.store.prune(folder.path("_state/tmp"))
        lease.release()
    else:
        lease.undo()
        folder.prune()
