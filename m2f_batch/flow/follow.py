"""An attempt from its plan to its end: units go into an engine, what comes out is counted, run.json is kept fresh."""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from m2f_batch.errors import RunError, TransientError
from m2f_batch.flow.attempt import Attempt
from m2f_batch.flow.busy import Places
from m2f_batch.flow.finish import finish, is_hopeless
from m2f_batch.flow.progress import Progress
from m2f_batch.flow.state import State
from m2f_batch.flow.stopping import noticed_stops
from m2f_batch.storage.commit import patiently, staged
from m2f_batch.storage.plan import Unit, Units, pending
from m2f_batch.storage.tally import Tally
from m2f_batch.verify import Each

# units in, what was committed of each out (the fields of ``stages.DONE_SCHEMA``)
Stream = Callable[[Iterable[Unit]], Generator[dict[str, Any], None, None]]


@dataclass(frozen=True)
class Started:
    """Work that has begun: what comes out of it, and how to ask about it.

    ``opened`` gives what was done before once OUTPUT is as the plan says, None before that. ``drained`` keeps further
    units from being labelled, and says whether none is under way any more; None where nothing needs to be drained.
    ``deaths`` counts the processes that have died while they worked on a unit. After ``close`` nothing of it writes
    to OUTPUT but what workers commit.
    """

    stream: Generator[dict[str, Any], None, None]
    opened: Callable[[], Tally | None]
    drained: Callable[[], bool] | None
    places: Places
    deaths: Callable[[], int] = lambda: 0
    close: Callable[[], None] = lambda: None


Engine = Callable[[Attempt, Units], Started]


def follow(attempt: Attempt, engine: Engine, each: Each) -> int:
    """Do what there is to do, and verify it through the map ``each``; returns the exit code."""
    there = {*attempt.standing.there, *attempt.work.change.merged}
    units = pending(attempt.work.plan, there, patiently(lambda: staged(attempt.run)))
    started = engine(attempt, units)
    state = State(attempt, started.opened, started.deaths)
    progress = Progress(attempt.job.listing.table.num_rows, started.places, state.refresh, attempt.events)
    is_stopped_early = False
    with noticed_stops(started.drained) as check_stop:
        try:
            with progress, closing(started.stream) as results:
                for unit in results:
                    check_stop()
                    progress.add(unit)
                    state.add(unit)
                    is_stopped_early = is_hopeless(attempt.job, progress)
                    if is_stopped_early:
                        break
        finally:
            # what ended the stream says more than what fails here; if nothing did, what follows fails the same way
            with suppress(TransientError, RunError):
                state.refresh(progress)
                state.recount(progress)
                state.refresh(progress)
            started.close()
        check_stop()
    patiently(attempt.lease.check)
    return finish(attempt, progress, state, each, is_stopped_early=is_stopped_early)
