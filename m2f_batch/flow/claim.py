"""OUTPUT becomes ours: the first thing that a run writes, after everything that can be checked was."""

from contextlib import suppress
from typing import Any

import pyarrow as pa

from m2f_batch.errors import RunError, UsageError
from m2f_batch.storage.run import RunDirectory


def claim(run: RunDirectory, info: dict[str, Any], manifest: pa.Table, *, overwrite: bool) -> None:
    """Write the first run.json and the manifest; an older run is deleted first when it may be overwritten.

    OUTPUT was free when the job was checked; that is a while ago. Raises UsageError when another run has begun there
    since. Claiming again with the same run_id changes nothing, so that a task that does it may be tried again.
    """
    if not is_ours(run, info):
        if run.holds_run():
            if not overwrite:
                raise _taken(run)
            run.remove()
        if not run.claim(info):
            raise _taken(run)
    run.write_manifest(manifest)


def is_ours(run: RunDirectory, info: dict[str, Any]) -> bool:
    """Whether the run of ``info`` has claimed the directory."""
    with suppress(RunError):  # a run.json that nobody can read is not ours
        return run.holds_run() and bool(run.read_info()["run_id"] == info["run_id"])
    return False


def _taken(run: RunDirectory) -> UsageError:
    return UsageError(f"output.uri: another run has just begun in {run.uri}; give another OUTPUT")
