"""Follows a submitted job: writes its log as it comes, through lost connections, until it has ended."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from m2f_batch.errors import RunError, UsageError
from m2f_batch.messages.masking import redact
from m2f_batch.result import FINAL, unheard
from m2f_batch.signals import STOPPED
from m2f_batch.submit.client import JobsApi, NoLiveLog, NoSuchJob, Unanswered, one_line
from m2f_batch.submit.interrupts import Answer

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
PATIENCE_SECONDS = 600.0  # a head that is replaced takes minutes; a job that outlives it goes on
AGAIN_SECONDS = 2.0
WHOLE_SECONDS = 10.0  # between two looks at the whole log, where it cannot be had as it comes
LAST_TRIES = 3  # for the end of the log of a node that may be gone
END_CHARACTERS = 65536  # kept of a log: its last line but what libraries say at the exit is the job's result
LOST = "a head that starts anew forgets its jobs. Submitted again, it goes on"
MAX_REASON = 500  # characters of Ray's message, which ends in the log's last lines

Say = Callable[[str], None]


@dataclass(frozen=True)
class Console:
    """The person who submits a job. By default nobody is there, and a stop leaves the job running.

    Attributes:
        say: takes a line about the job.
        write: takes a part of its log.
        ask: says what is to become of the job of an id after an interrupt.
    """

    say: Say = unheard
    write: Say = unheard
    ask: Callable[[KeyboardInterrupt, str], Answer] = lambda interrupt, job_id: "leave"


@dataclass
class Shown:
    """The part of a job's log that was seen. Each connection begins the log anew."""

    characters: int = 0
    is_live: bool = True
    end: str = ""
    is_being_stopped: bool = False  # the cluster has taken our request

    def news(self, start: int, text: str) -> str:
        """Return the new part of a text that begins ``start`` characters after the log's beginning."""
        known = max(0, self.characters - start)
        self.characters = max(self.characters, start + len(text))
        self.end = (self.end + text[known:])[-END_CHARACTERS:]
        return text[known:]


@dataclass
class Patience:
    """The time for which a cluster may be silent, in ``seconds``. 0: it has not answered yet, and has to at once."""

    seconds: float
    say: Say
    since: float | None = None

    @property
    def is_silent(self) -> bool:
        """True where it has not answered, yet or any more."""
        return not self.seconds or self.since is not None

    def heard(self) -> None:
        """Note that it has answered, so that it may be silent for a while from now on."""
        if self.since is not None:
            self.say("the cluster answers again")
        self.since, self.seconds = None, PATIENCE_SECONDS

    def lost(self, error: Unanswered) -> None:
        """Note that it has not answered. Raises the error when it has not for too long."""
        if not self.seconds or (self.since is not None and time.monotonic() - self.since > self.seconds):
            raise error
        if self.since is None:
            self.since = time.monotonic()
            self.say(f"{error.problem}; trying again for {self.seconds:g} s")


async def follow(
    api: JobsApi, job_id: str, shown: Shown, patience: Patience, console: Console, *, is_stopped: bool = False
) -> dict[str, Any]:
    """Write the rest of a job's log as it comes. Returns Ray's JobDetails once the job has ended.

    ``is_stopped`` asks it to. Raises Unanswered when the cluster was silent for too long, UsageError when it does not
    know the job, RunError when it has forgotten it.
    """
    while True:
        try:
            await api.authenticate()
            if is_stopped:
                await api.stop(job_id)
                is_stopped, shown.is_being_stopped = False, True
            job = await api.job(job_id)
            patience.heard()
            if job["status"] in ENDED:
                await _write_rest(api, job_id, shown, console)
                return job
            await _write_tail(api, job_id, shown, console)
        except NoSuchJob as error:
            if not patience.seconds:  # its first answer: there was no such job
                hint = f"give one that submit has said. {LOST}"
                raise UsageError(str(error), field="submission id", hint=hint) from None
            raise RunError(str(error), hint=LOST) from None
        except RunError as error:  # whatever a proxy says: the job may run
            patience.lost(error if isinstance(error, Unanswered) else Unanswered(str(error)))
        await asyncio.sleep(AGAIN_SECONDS)


async def _write_tail(api: JobsApi, job_id: str, shown: Shown, console: Console) -> None:
    start = 0
    try:
        async for text in api.tail(job_id):
            console.write(shown.news(start, text))
            start += len(text)
    except NoLiveLog as error:
        if shown.is_live:
            shown.is_live = False
            console.say(f"{error}: the log comes every {WHOLE_SECONDS:g} s")
        console.write(shown.news(0, await api.log(job_id)))
        await asyncio.sleep(WHOLE_SECONDS - AGAIN_SECONDS)


async def _write_rest(api: JobsApi, job_id: str, shown: Shown, console: Console) -> None:
    """Write the part of the log that a lost connection did not bring."""
    for tries_left in reversed(range(LAST_TRIES)):
        try:
            console.write(shown.news(0, await api.log(job_id)))
            return
        except RunError as error:  # the job has ended, and how is known
            if not tries_left:
                console.say(f"the end of the log cannot be had: {error}")
                return
        await asyncio.sleep(AGAIN_SECONDS)


def exit_code(job: dict[str, Any]) -> int:
    """Return the exit code for a job that has ended: its own, 1 where Ray failed, for a signal as a shell gives it.

    >>> exit_code({"status": "FAILED", "driver_exit_code": 3}), exit_code({"status": "STOPPED"})
    (3, 130)
    """
    own = job.get("driver_exit_code")
    if job["status"] == "STOPPED":
        return STOPPED
    if own is None:
        return 0 if job["status"] == "SUCCEEDED" else RunError.exit_code
    return int(own) if own >= 0 else 128 - int(own)


def end_of(job_id: str, job: dict[str, Any]) -> str:
    """Say in one line how a job has ended."""
    own = job.get("driver_exit_code")
    if job["status"] == "STOPPED":
        return f"{job_id} was stopped; what was committed is kept, and the job goes on when it is submitted again"
    if own is None and job["status"] == "FAILED":
        message = one_line(redact(str(job.get("message") or "no message")))
        return f"{job_id} failed in Ray ({job.get('error_type')}): {message[:MAX_REASON]}"
    return f"{job_id} ended with exit code {exit_code(job)}"


def may_be_done_again(job: dict[str, Any]) -> bool:
    """Tell whether a job goes on when it is submitted again: it failed or was stopped, and may end otherwise."""
    return job["status"] in ENDED and exit_code(job) not in FINAL
