"""Prepares OUTPUT before the first image: deletes an overwritten run, writes the plan, drops stale rows, run.json last.

Idempotent: after a kill at any moment the same command does every step again.
"""

from m2f_batch.flow.attempt.output_state import Work, read_run_json
from m2f_batch.runs import index
from m2f_batch.runs.assignment import assigned_of
from m2f_batch.runs.directory import RunDirectory
from m2f_batch.runs.tally import Tally, tally_in
from m2f_batch.runs.writing.commit import staged, staged_files
from m2f_batch.runs.writing.map_files import Each
from m2f_batch.runs.writing.merge import stage_merged
from m2f_batch.runs.writing.repair import clean, join_whole, remove, sweep, write_dirty
from m2f_batch.storage.retries import retry_write


def begin(run: RunDirectory, work: Work, each: Each = map) -> Tally:
    """Prepare OUTPUT for the plan, and return what is done already.

    ``each`` maps over files that are rewritten. Raises Fenced when another run has taken over, TransientError when
    storage does not answer for long.
    """
    before = retry_write(lambda: read_run_json(run))
    mine = {key: work.info.get(key) for key in ("run_id", "plan", "token")}
    if before is not None and mine["token"] is not None and mine.items() <= before.items():
        return tally_in(before)  # done, and the process that asks was started again
    if work.over and before is not None and before.get("run_id") != work.info["run_id"]:
        retry_write(lambda: remove(run))
    retry_write(lambda: run.delete([run.path("_SUCCESS")]))
    plan = work.plan
    stage_merged(run, plan, work.change, retry_write(run.committed), each)
    if work.change.dirty:
        retry_write(lambda: write_dirty(run, plan.plan_id, work.change.dirty))
    retry_write(lambda: run.write_manifest(plan.manifest()))
    there = retry_write(run.committed)
    if work.change.dirty:
        clean(run, plan, work.change.dirty, there, each)
        retry_write(lambda: run.delete([run.path("_state/dirty.json")]))
        there = retry_write(run.committed)
    retry_write(lambda: sweep(run, plan, there))
    join_whole(run, plan, there, retry_write(lambda: staged(run)), each)
    done = tally_of(run, work)
    counts = {"ok": done.ok, "error": done.error, "remaining": plan.table.num_rows - done.images}
    info = work.info | {"images": work.info["images"] | counts, "segments": done.segments}
    retry_write(lambda: run.write_info(info | {"errors": dict(done.reasons), "strangers": done.strangers}))
    return done


def tally_of(run: RunDirectory, work: Work) -> Tally:
    """Count what is done: committed files of the plan, and units that wait for the others of their file."""
    assigned, there = assigned_of(work.plan.manifest()), retry_write(run.committed)
    parts = staged_files(run, set(assigned.names) - there.keys())
    known = retry_write(lambda: index.read_index(run))
    return retry_write(lambda: index.tally_by(run, assigned, there, known)) + retry_write(lambda: run.tally(parts))
