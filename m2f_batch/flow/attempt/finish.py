"""Ends an attempt: proves the run from its files, writes ``_SUCCESS``, and tells the user what was done or remains."""

from collections.abc import Iterator
from dataclasses import replace

from m2f_batch.errors import RunError
from m2f_batch.flow.attempt.hold_output import Attempt
from m2f_batch.flow.attempt.run_info import Job, info_now
from m2f_batch.flow.watch.metrics import Metrics
from m2f_batch.flow.watch.progress import Progress
from m2f_batch.inputs.names.images import may_be_stranger
from m2f_batch.messages.spoken import now
from m2f_batch.result import Outcome
from m2f_batch.runs.forward_kinds import forward_lines
from m2f_batch.runs.index import read_index, write_index
from m2f_batch.runs.info import RunTotals
from m2f_batch.runs.inspect.verify import Each, verify_reports
from m2f_batch.runs.tally import Tally, tally_in
from m2f_batch.runs.writing.commit import staged
from m2f_batch.runs.writing.repair import join_whole, sweep
from m2f_batch.storage.json_text import JsonObject
from m2f_batch.storage.retries import retry_write

EARLY_STOP_IMAGES = 200  # rows before a hopeless run may be stopped
FEW_FILES = 8
TOO_MANY_ERRORS = 3  # the exit code


def is_hopeless(job: Job, progress: Progress) -> bool:
    """Return whether so many images of this attempt have failed that the rest is not worth trying.

    Where only strangers have come so far, INPUT must list nothing else.
    """
    mine = progress.mine
    if mine.judged.images < EARLY_STOP_IMAGES or not _too_many_errors(job, mine):
        return False
    return mine.images > mine.strangers or all(may_be_stranger(uri.as_py()) for uri in job.listing.table["uri"])


def _too_many_errors(job: Job, tally: Tally) -> bool:
    judged = tally.judged
    return judged.error > job.config.input.max_error_fraction * judged.images


def _judged(outcome: Outcome[RunTotals], job: Job, tally: Tally) -> Outcome[RunTotals]:
    if not _too_many_errors(job, tally):
        return outcome
    return replace(outcome, exit_code=TOO_MANY_ERRORS, error=_over_the_limit(job))


def _over_the_limit(job: Job) -> str:
    return f"more than input.max_error_fraction ({job.config.input.max_error_fraction:g}) of the images failed"


def prove(attempt: Attempt, progress: Progress, each: Each) -> JsonObject | None:
    """Read every file of a whole run, check it, and return the totals. Returns None for a run that is not whole.

    Raises RunError for a run that is not what it says.
    """
    run, plan = attempt.run, attempt.work.plan
    if progress.done < progress.total:
        return None
    # a unit may have been staged, and its file not joined before storage failed
    join_whole(run, plan, retry_write(run.committed), retry_write(lambda: staged(run)))
    retry_write(lambda: sweep(run, plan, run.committed()))
    attempt.events.emit("proof", files=len(plan.names()))
    known = retry_write(lambda: read_index(run))
    # few files are soon read here, while tasks may have to wait for new workers
    where = map if len(plan.names()) <= FEW_FILES else each
    found = verify_reports(run, attempt.job.labeling.task, each=where, known=known)
    if found.problems:
        raise RunError(
            f"the run does not verify: {'; '.join(found.problems[:3])}; delete the files that this names, and give the "
            "same command again"
        )
    tally = sum((report.tally for report in found.reports), start=Tally())
    if tally.images != found.listed:
        raise _internal_error(attempt, found.listed - tally.images)
    retry_write(lambda: write_index(run, {report.file: report.entry() for report in found.reports}))
    return {
        "images": attempt.work.info["images"] | {"ok": tally.ok, "error": tally.error, "remaining": 0},
        "segments": tally.segments,
        "errors": dict(tally.reasons.most_common()),
        "strangers": tally.strangers,
    }


def finish(
    attempt: Attempt, progress: Progress, totals: JsonObject | None, *, is_stopped_early: bool
) -> Outcome[RunTotals]:
    """Say that the run is done, or what remains, and return how it ended. Raises RunError when something remains."""
    job, run = attempt.job, attempt.run
    done = info_now(attempt.work.info, progress)
    remaining = done["images"]["remaining"]
    if totals is not None:
        done |= {**totals, "finished_at": now()}
        attempt.report(attempt.outcome(done))
        retry_write(lambda: run.write_info(done))
        retry_write(attempt.lease.check)
        retry_write(run.mark_success)
    elif progress.transient and not is_stopped_early:
        raise RunError(
            f"{remaining:,} images remain: {progress.transient[0]} "
            f"({len(progress.transient)} units of work failed in passing); try again later"
        )
    elif not is_stopped_early:
        raise _internal_error(attempt, remaining)
    lines = _closing_lines(job, done, progress)
    attempt.events.say("\n".join(lines), "done", images=done["images"], errors=done["errors"])
    return _judged(attempt.outcome(done), job, tally_in(done))


def _internal_error(attempt: Attempt, missing: int) -> RunError:
    log = attempt.run.path(f"_state/log/{attempt.fence.token:09d}.jsonl")
    return RunError(
        f"internal error: {missing:,} of {attempt.job.listing.table.num_rows:,} listed images have no row. Nothing is "
        f"lost: run the same command again. Please report this with {log}"
    )


def say_nothing_to_do(attempt: Attempt) -> Outcome[RunTotals]:
    """Say that INPUT lists what it listed when the run was finished, and return the outcome that the run had.

    It counts as a success, because a night without new images is no reason for an alarm.
    """
    info = attempt.decision.state.info or {}
    counts = info["images"]
    lines = [
        f"done    nothing new: {counts['listed']:,} in = {counts['ok']:,} ok + {counts['error']:,} error,"
        f" finished at {info['finished_at']}",
        *(f"        {line}" for line in tally_in(info).reason_lines()),
        *_limit_lines(attempt.job, tally_in(info), ""),
    ]
    attempt.events.say("\n".join(lines), "nothing_new", images=counts, errors=info["errors"])
    Metrics(attempt.run.uri).succeeded()
    return _judged(attempt.outcome(info), attempt.job, tally_in(info))


def _closing_lines(job: Job, done: JsonObject, progress: Progress) -> Iterator[str]:
    counts = done["images"]
    remaining = f" + {counts['remaining']:,} remaining" if counts["remaining"] else ""
    before = f" ({progress.base.images:,} of them before)" if progress.base.images else ""
    yield (
        f"done    {counts['listed']:,} in = {counts['ok']:,} ok + {counts['error']:,} error{remaining}{before};"
        f" {done['segments']:,} segments in {done['seconds']:.0f} s ({done['images_per_second']:.1f} images/s)"
    )
    for line in tally_in(done).reason_lines():
        yield f"        {line}"
    if counts["ok"] and not done["segments"]:
        yield "        no image has a segment: is the model trained for them, and postprocess.score_threshold right?"
    for line in progress.busy.lines():
        yield f"        {line}"
    for line in forward_lines(done["forward"]):
        yield f"        {line}"
    if progress.retries:
        yield f"        {progress.retries:,} requests were tried again"
    yield f"        {job.run.path('annotations')}/*.parquet"
    yield from _limit_lines(job, tally_in(done), "; stopped early" if remaining else "")


def _limit_lines(job: Job, tally: Tally, early: str) -> Iterator[str]:
    if _too_many_errors(job, tally):
        yield f"        {_over_the_limit(job)}{early}: exit code 3"
