"""An attempt from its plan to its end: units go into an engine, what comes out is counted, run.json is kept fresh."""

import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from m2f_batch.errors import RunError, TransientError
from m2f_batch.flow.attempt.finish import finish, is_hopeless, prove
from m2f_batch.flow.attempt.hold_output import Attempt
from m2f_batch.flow.attempt.reporter import State
from m2f_batch.flow.watch.busy import Places
from m2f_batch.flow.watch.progress import Progress
from m2f_batch.ray_session.stopping import noticed_stops
from m2f_batch.runs.inspect.verify import Each
from m2f_batch.runs.plan import Unit, Units, pending
from m2f_batch.runs.tally import Tally
from m2f_batch.runs.writing.commit import staged
from m2f_batch.storage.retries import retry_write

LEAVE_SECONDS = 9.0  # for counting, where the run was asked to stop
# units in, what was committed of each out (the fields of ``stages.DONE_SCHEMA``)
Stream = Callable[[Iterable[Unit]], Generator[dict[str, Any], None, None]]


@dataclass(frozen=True)
class Started:
    """Work that has begun: what comes out of it, and how to ask about it.

    ``opened`` gives what was done before once OUTPUT is as the plan says, None before that. ``drained`` keeps further
    units from being labelled, and says whether none is under way any more; None where nothing needs to be drained.
    ``deaths`` counts the processes that have died while they worked on a unit; 0 where nobody answers at once. After
    ``close`` nothing of it writes to OUTPUT but what workers commit.
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
    there = {*attempt.decision.state.there, *attempt.work.change.merged}
    units = pending(attempt.work.plan, there, retry_write(lambda: staged(attempt.run)))
    started = engine(attempt, units)
    state = State(attempt, started.opened, started.deaths)
    progress = Progress(attempt.job.listing.table.num_rows, started.places, state.refresh, attempt.events)
    is_stopped_early, totals, leave_in = False, None, None
    with progress:
        with noticed_stops(started.drained) as check_stop:
            try:
                with closing(started.stream) as results:
                    for unit in results:
                        check_stop()
                        progress.add(unit)
                        state.add(unit)
                        is_stopped_early = is_hopeless(attempt.job, progress)
                        if is_stopped_early:
                            break
            except KeyboardInterrupt:
                leave_in = LEAVE_SECONDS
                raise
            finally:
                # what ended the stream says more than what fails here; if nothing did, what follows fails the same way
                _quietly(lambda: state.recount(progress), leave_in)
                started.close()
            check_stop()
        retry_write(attempt.lease.check)
        totals = prove(attempt, progress, each)
    code = finish(attempt, progress, totals, is_stopped_early=is_stopped_early)
    if totals is not None:
        state.succeeded()
    return code


def _quietly(act: Callable[[], None], seconds: float | None) -> None:
    """``act``, as far as it gets in these seconds; who goes on with the run counts anew."""

    def quiet() -> None:
        with suppress(TransientError, RunError):
            act()

    thread = threading.Thread(target=quiet, daemon=True)
    thread.start()
    thread.join(seconds)
