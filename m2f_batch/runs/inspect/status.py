"""Reads the state of a run from storage alone: what is done, what failed and why, what is left, who works on it."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from m2f_batch.errors import RunError
from m2f_batch.messages.spoken import duration
from m2f_batch.runs.assignment import read_assigned
from m2f_batch.runs.directory import RunDirectory
from m2f_batch.runs.forward_kinds import forward_lines
from m2f_batch.runs.index import read_index, staged_images, tally_by
from m2f_batch.runs.info import RunInfo
from m2f_batch.runs.lease import newest
from m2f_batch.runs.reader import open_run
from m2f_batch.runs.tally import Tally


def read_status(run_uri: str) -> dict[str, Any]:
    """Return the state of a run. Raises UsageError where there is none."""
    run = open_run(run_uri)
    return state_of(run.directory, run.info)


def state_of(run: RunDirectory, info: RunInfo) -> dict[str, Any]:
    """Return the state of a run: counts from its files, the rest from run.json, ages and times left in seconds."""
    assigned, there, index = read_assigned(run), run.committed(), read_index(run)
    staged = 0 if assigned is None else staged_images(run, assigned, there)
    tally = tally_by(run, assigned, there, index)
    listed = info.images.listed if assigned is None else assigned.listed
    remaining = listed - tally.ok - tally.error
    others = {"skipped": info.images.skipped, "duplicates": info.images.duplicates}
    counts = {"ok": tally.ok, "error": tally.error, "remaining": remaining, "staged": staged}
    left = remaining - staged
    rate = info.images_per_second
    is_finished = run.is_finished()
    seconds_left = left / rate if left > 0 and rate else None
    deadline = info.deadline_at
    end = datetime.fromisoformat(info.finished_at) if is_finished and info.finished_at else _ending(seconds_left)
    late_by = (end - datetime.fromisoformat(deadline)).total_seconds() if deadline else None
    return {
        "run": run.uri,
        "run_id": info.run_id,
        "task": info.task,
        "model": {"uri": info.model.uri, "license": info.model.license},
        "finished": is_finished,
        "started_at": info.started_at,
        "finished_at": info.finished_at if is_finished else None,
        "attempts": info.attempts,
        "images": {"listed": listed, **counts, **others},
        "segments": tally.segments,
        "errors": dict(tally.reasons.most_common()),
        "strangers": tally.strangers,
        "images_per_second": rate,
        "seconds": info.seconds,
        "age": None if is_finished else _age(run, run.path("run.json")),
        "seconds_left": seconds_left,
        "deadline_at": deadline,
        "late_by": late_by,
        "retries": info.retries,
        "forward": info.forward,
        "lease": _lease(run),
    }


def _ending(seconds_left: float | None) -> datetime:
    """Estimate when a run ends at its rate, at the earliest now."""
    return datetime.now(UTC) + timedelta(seconds=seconds_left or 0)


def _lease(run: RunDirectory) -> dict[str, Any] | None:
    held = newest(run.store, run.lease_folder)
    if held is None:
        return None
    lease = {"holder": held.holder, "since": held.since, "renewed_at": held.renewed_at, "seconds": held.seconds}
    if held.released:
        return {"is_free": True, **lease, "age": None, "is_over": True}
    # their numbers are all of one width
    age = _age(run, max(entry.uri for entry in run.store.list(f"{run.lease_folder}/") if entry.uri.endswith(".json")))
    return {"is_free": False, **lease, "age": age, "is_over": age is not None and age > held.seconds}


def status_lines(state: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that tell a person the state of a run."""
    images, segments, is_finished = state["images"], state["segments"], state["finished"]
    end = f"finished at {state['finished_at']}" if is_finished else "not finished"
    attempt = f", attempt {state['attempts']}" if state["attempts"] > 1 else ""
    yield f"{state['run']}: {end}; started at {state['started_at']}{attempt}"
    yield f"model   {state['model']['uri']} ({state['task']}, license {state['model']['license']})"
    sum_of = f"{images['ok']:,} ok + {images['error']:,} error + {images['remaining']:,} remaining"
    others = f"{images['skipped']:,} skipped, {images['duplicates']:,} duplicates"
    yield f"images  {images['listed']:,} listed = {sum_of}; {others}"
    staged = images["staged"]
    if staged:
        yield f"staged  {staged:,} of those that remain are done, and appear when the others of their file are"
    said = "" if is_finished else f", as of {duration(state['age'])} ago"
    rate = f"{state['images_per_second']:.1f} images/s over {state['seconds']:.0f} s{said}"
    yield f"rate    {rate}; {segments:,} segments"
    if state["retries"]:
        yield f"retries {state['retries']:,} requests to storage were made again"
    for line in forward_lines(state["forward"]):
        yield f"forward {line}"
    if state["lease"] is not None:
        yield f"lease   {_lease_text(state['lease'])}"
    tally = Tally(images["ok"], images["error"], segments, Counter(state["errors"]), state["strangers"])
    for line in tally.reason_lines():
        yield f"failed  {line}"
    if state["seconds_left"] is not None:
        yield f"left    {images['remaining'] - staged:,} images, {duration(state['seconds_left'])} at that rate"
    if state["deadline_at"]:
        yield f"due     {state['deadline_at']} (run.deadline): {_late_text(state)}"


def _late_text(state: dict[str, Any]) -> str:
    late_by = state["late_by"]
    time = duration(abs(late_by))
    if state["finished"]:
        return f"missed by {time}" if late_by > 0 else f"kept, with {time} to spare"
    if state["seconds_left"] is None:
        return f"over for {time}" if late_by > 0 else f"in {time}"
    return f"{time} late at that rate" if late_by > 0 else f"kept with {time} to spare at that rate"


def _lease_text(lease: dict[str, Any]) -> str:
    if lease["is_free"]:
        return f"free; last held by {lease['holder']} from {lease['since']} to {lease['renewed_at']}"
    ending = f"it lasts {lease['seconds']:g} s from then"
    end = "it has expired, and the same command goes on" if lease["is_over"] else ending
    return f"held by {lease['holder']} since {lease['since']}; renewed {duration(lease['age'])} ago, {end}"


def _age(run: RunDirectory, uri: str) -> float | None:
    """Return the seconds since a file was written, by the clock of the store, None if the store has no clock."""
    try:
        return run.store.age(uri)
    except RunError:  # on a disk that may only be read
        return None
