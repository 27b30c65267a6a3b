"""``m2f-batch status RUN``: what is done, what failed and why, what is left, who works on it; from storage alone."""

from collections.abc import Iterator
from typing import Any

from m2f_batch.errors import RunError
from m2f_batch.storage.assigned import read_assigned
from m2f_batch.storage.forwards import forward_lines
from m2f_batch.storage.index import read_index, staged_images, tally_by
from m2f_batch.storage.lease import newest
from m2f_batch.storage.run import RunDirectory, open_existing_run
from m2f_batch.terminal import say


def status(run_uri: str) -> int:
    """Print the state of a run; always 0 for a run that exists."""
    run = open_existing_run(run_uri)
    info = run.read_info()
    say(*_lines(run, info))
    return 0


def _lines(run: RunDirectory, info: dict[str, Any]) -> Iterator[str]:
    assigned, there, index = read_assigned(run), run.committed(), read_index(run)
    staged = 0 if assigned is None else staged_images(run, assigned, there)
    tally = tally_by(run, assigned, there, index)
    listed = info["images"]["listed"] if assigned is None else assigned.listed
    remaining = listed - tally.ok - tally.error
    state = f"finished at {info['finished_at']}" if run.is_finished() else "not finished"
    attempt = f", attempt {info['attempts']}" if info.get("attempts", 1) > 1 else ""
    yield f"{run.uri}: {state}; started at {info['started_at']}{attempt}"
    yield f"model   {info['model']['uri']} ({info['task']}, licence {info['model']['license']})"
    others = f"{info['images']['skipped']:,} skipped, {info['images']['duplicates']:,} duplicates"
    yield f"images  {listed:,} listed = {tally.ok:,} ok + {tally.error:,} error + {remaining:,} remaining; {others}"
    if staged:
        yield f"staged  {staged:,} of those that remain are done, and appear when the others of their file are"
    said = "" if run.is_finished() else f", as of {_spoken(_age(run, run.path('run.json')))} ago"
    rate = f"{info['images_per_second']:.1f} images/s over {info['seconds']:.0f} s{said}"
    yield f"rate    {rate}; {tally.segments:,} segments"
    if info.get("retries"):
        yield f"retries {info['retries']:,} requests to storage were made again"
    for line in forward_lines(info.get("forward")):
        yield f"forward {line}"
    yield from _lease_line(run)
    for line in tally.reason_lines():
        yield f"failed  {line}"
    if remaining > staged and info["images_per_second"]:
        seconds = (remaining - staged) / info["images_per_second"]
        yield f"left    {remaining - staged:,} images, {_spoken(seconds)} at that rate"


def _lease_line(run: RunDirectory) -> Iterator[str]:
    held = newest(run.store, run.lease_folder)
    if held is None:
        return
    if held.released:
        yield f"lease   free; last held by {held.holder} from {held.since} to {held.renewed_at}"
        return
    # their numbers are all of one width
    age = _age(run, max(entry.uri for entry in run.store.list(f"{run.lease_folder}/") if entry.uri.endswith(".json")))
    is_over = age is not None and age > held.seconds
    end = "it has expired, and the same command goes on" if is_over else f"it lasts {held.seconds:g} s from then"
    yield f"lease   held by {held.holder} since {held.since}; renewed {_spoken(age)} ago, {end}"


def _age(run: RunDirectory, uri: str) -> float | None:
    """Seconds since the file was written, by the clock of the store; None where that cannot be told."""
    try:
        return run.store.age(uri)
    except RunError:  # on a disk that may only be read
        return None


def _spoken(seconds: float | None) -> str:
    """A time in one unit.

    >>> _spoken(4.2), _spoken(200), _spoken(90_000), _spoken(None)
    ('4 s', '3 min', '25.0 h', 'an unknown time')
    """
    if seconds is None:
        return "an unknown time"
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
