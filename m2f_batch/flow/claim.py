"""OUTPUT becomes ours: the first thing that a run writes, after everything that can be checked was."""

from contextlib import suppress
from typing import Any

import pyarrow as pa

from m2f_batch.errors import RunError, UsageError
from m2f_batch.storage.run import RunDirectory


def claim(run: RunDirectory, info: dict[str, Any], manifest: pa.Table, *, over: str | None) -> None:
    """Write the first run.json and the manifest; the run ``over`` (its run_id) is deleted first.

    OUTPUT held that run or none when the job was checked; that is a while ago. Raises UsageError when another run has
    begun there since. Claiming again with the same run_id changes nothing, so a task that does it may be tried again.
    """
    held = run_id_of(run)
    if held != info["run_id"]:
        if held is not None:
            if held != over:
                raise _taken(run)
            run.remove()
        if not run.claim(info):
            raise _taken(run)
    run.write_manifest(manifest)


def is_ours(run: RunDirectory, info: dict[str, Any]) -> bool:
    """Whether the run of ``info`` has claimed the directory."""
    return run_id_of(run) == info["run_id"]


def run_id_of(run: RunDirectory) -> str | None:
    """Of the run that the directory holds; empty when nobody can read it, None when there is none."""
    if not run.holds_run():
        return None
    with suppress(RunError):
        return str(run.read_info()["run_id"])
    return ""


def _taken(run: RunDirectory) -> UsageError:
    return UsageError(f"output.uri: another run has just begun in {run.uri}; give another OUTPUT")
