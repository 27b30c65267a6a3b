"""Follows an attempt to its end: feeds units to an engine, counts what comes out, keeps run.json fresh, verifies."""

import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass

from m2f_batch.errors import RunError, TransientError
from m2f_batch.flow.attempt.finish import finish, is_hopeless, prove
from m2f_batch.flow.attempt.hold_output import Attempt
from m2f_batch.flow.attempt.reporter import Reporter
from m2f_batch.flow.unit.units import DoneUnit
from m2f_batch.flow.watch.busy import Slots
from m2f_batch.flow.watch.progress import Progress
from m2f_batch.result import Outcome
from m2f_batch.runs.info import RunTotals
from m2f_batch.runs.inspect.verify import Each
from m2f_batch.runs.plan import Unit, Units, pending
from m2f_batch.runs.tally import Tally
from m2f_batch.runs.writing.commit import staged
from m2f_batch.signals import noticed_stops
from m2f_batch.storage.retries import retry_write

LEAVE_SECONDS = 9.0  # for counting, where the run was asked to stop
# takes units and yields what was committed of each: the fields of ``units.DONE_SCHEMA``
Stream = Callable[[Iterable[Unit]], Generator[DoneUnit, None, None]]


@dataclass(frozen=True)
class Started:
    """Work that has begun.

    stream: what was committed of each unit.
    opened: the tally of earlier attempts, or None until OUTPUT is ready.
    drained: stops feeding units, and returns True when none is in flight. None where nothing needs to be drained.
    slots: where the units run.
    deaths: the worker processes lost so far, 0 where nobody answers at once.
    close: ends the work. After it only workers write to OUTPUT.
    """

    stream: Generator[DoneUnit, None, None]
    opened: Callable[[], Tally | None]
    drained: Callable[[], bool] | None
    slots: Slots
    deaths: Callable[[], int] = lambda: 0
    close: Callable[[], None] = lambda: None


Engine = Callable[[Attempt, Units], Started]


def follow(attempt: Attempt, engine: Engine, each: Each) -> Outcome[RunTotals]:
    """Do what there is to do, verify it through the map ``each``, and return how it ended."""
    there = {*attempt.decision.state.there, *attempt.work.change.merged}
    units = pending(attempt.work.plan, there, retry_write(lambda: staged(attempt.run)))
    started = engine(attempt, units)
    reporter = Reporter(attempt, started.opened, started.deaths)
    progress = Progress(attempt.job.listing.table.num_rows, started.slots, reporter.refresh, attempt.events)
    is_stopped_early, totals, leave_in = False, None, None
    with progress:
        with noticed_stops(started.drained) as check_stop:
            try:
                with closing(started.stream) as results:
                    for unit in results:
                        check_stop()
                        progress.add(unit)
                        reporter.add(unit)
                        is_stopped_early = is_hopeless(attempt.job, progress)
                        if is_stopped_early:
                            break
            except KeyboardInterrupt:
                leave_in = LEAVE_SECONDS
                raise
            finally:
                try:
                    # its faults are not raised: what ended the stream says more, or what follows fails the same way
                    quietly(lambda: reporter.recount(progress), leave_in)
                finally:
                    started.close()
            check_stop()
        retry_write(attempt.lease.check)
        totals = prove(attempt, progress, each)
    outcome = finish(attempt, progress, totals, is_stopped_early=is_stopped_early)
    if totals is not None:
        reporter.succeeded()
    return outcome


def quietly(act: Callable[[], None], seconds: float | None) -> None:
    """Do ``act`` as far as it gets in these seconds. The next command counts anew.

    A stop that comes meanwhile is raised after it, because the stream ends by itself as soon as nothing is fed, often
    before the thread that waits for this has asked to stop.
    """
    is_done = threading.Event()  # a join that was interrupted takes its thread for ended

    def quiet() -> None:
        try:
            with suppress(TransientError, RunError):
                act()
        finally:
            is_done.set()

    threading.Thread(target=quiet, daemon=True).start()
    try:
        is_done.wait(seconds)
    except KeyboardInterrupt:
        is_done.wait(LEAVE_SECONDS)
        raise
