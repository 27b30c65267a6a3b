"""Sends a checked job to a Ray cluster and follows its log to its end (``m2f-batch submit``)."""

import asyncio
import re
import secrets
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from m2f_batch.errors import RunError, UsageError
from m2f_batch.messages.terminal import is_quiet
from m2f_batch.result import Outcome, Report, result_in, unheard
from m2f_batch.signals import STOPPED
from m2f_batch.storage.json_text import JsonObject
from m2f_batch.submit.address import Address, check_may_submit, find_token, parse_address
from m2f_batch.submit.client import JobsApi, NoSuchJob, Unanswered
from m2f_batch.submit.following import (
    PATIENCE_SECONDS,
    Console,
    Patience,
    Say,
    Shown,
    end_of,
    exit_code,
    follow,
    may_be_done_again,
)
from m2f_batch.submit.interrupts import noticed_sigterm
from m2f_batch.submit.jobs import Job, runtime_environment
from m2f_batch.submit.package import entrypoint, working_dir

SUBMIT_SECONDS = 180.0  # of trying again to hand a job over, and with an id of its own to reach the cluster before
AGAIN_SECONDS = 2.0
MOST_ATTEMPTS = 100
SETTINGS = "m2f_batch_settings"  # in a job's metadata
ID_FLAG = "--submission-id"
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
T = TypeVar("T")


@dataclass(frozen=True)
class _Order:
    """A job that is on its way, with the variables that travel with it."""

    job: Job
    variables: dict[str, str]
    api: JobsApi
    say: Say

    @property
    def settings(self) -> str:
        return self.job.settings(self.variables)


def submit(
    job: Job,
    address: str | None,
    console: Console,
    *,
    submission_id: str | None = None,
    is_followed: bool = True,
    report: Report[JsonObject] = unheard,
) -> Outcome[JsonObject]:
    """Submit a job and follow it. Returns how it ended, or 0 at once where it is not followed.

    A job of this ``submission_id`` that runs or is done is followed. One that was stopped or failed goes on as ID-2,
    ID-3 and so on, unless it would end the same way again (exit codes 2 and 3). ``report`` gets its id once it is
    there.
    """
    target, token = parse_address(address), find_token()
    check_may_submit(target, token is not None, job.allow_no_token, job.how_to_allow)
    job_id = _checked_id(submission_id) if submission_id else _new_id(job.name)
    api, say = JobsApi(target, token), console.say
    order = _Order(job, runtime_environment(), api, say)
    try:
        job_id, is_new = asyncio.run(_submit(order, job_id, is_known=submission_id is not None))
    except KeyboardInterrupt:
        say(f"interrupted; {_if_submitted(job_id, target)}")
        return Outcome(exit_code=STOPPED, error="interrupted while it was submitted")
    outcome = Outcome[JsonObject](submission_id=job_id)
    report(outcome)
    say(f"{'submitted' if is_new else 'is there already'}: {job_id} at {target.url}")
    if not is_followed:
        say(f"this follows it:\n    {_again(job_id, target)}")
        return outcome
    return _follow(api, job_id, Patience(PATIENCE_SECONDS, say), console)


def follow_submitted(
    job_id: str, address: str | None, console: Console, *, report: Report[JsonObject] = unheard
) -> Outcome[JsonObject]:
    """Follow a job that was submitted before, from the beginning of its log, and return how it ended.

    That says that the command ends the same way each time. Raises UsageError for a job that the cluster does not know.
    """
    target, token = parse_address(address), find_token()
    report(Outcome(submission_id=job_id))
    _warn_unencrypted(target, token is not None, console.say)
    api, patience = JobsApi(target, token), Patience(0, console.say)
    return _follow(api, _checked_id(job_id), patience, console, is_submitted_again=False)


def _warn_unencrypted(target: Address, asks: bool, say: Say) -> None:
    if asks and not (target.is_loopback or target.is_encrypted):
        say(f"{target.url}: the token travels unencrypted; use https://, or a tunnel, beyond a network you trust")


async def _submit(order: _Order, job_id: str, *, is_known: bool) -> tuple[str, bool]:
    """Return the id under which the job is on the cluster, and whether it is there since now."""
    api, job, say = order.api, order.job, order.say
    target, settings = api.address, order.settings
    seconds = SUBMIT_SECONDS if is_known else 0  # without an id somebody waits, maybe for a typo
    async with api:
        asks = await _answer_of(api.authenticate, seconds, say)
        check_may_submit(target, asks, job.allow_no_token, job.how_to_allow)
        _warn_unencrypted(target, asks, say)
        for attempt in range(1, MOST_ATTEMPTS + 1 if is_known else 2):
            attempt_id = job_id if attempt == 1 else f"{job_id}-{attempt}"
            there = await _answer_of(partial(_job_if_there, api, attempt_id), seconds, say) if is_known else None
            if there is None:
                found = await _hand_over(order, attempt_id)
                _check_same(found or {}, settings, attempt_id, target)
                return attempt_id, True
            _check_same(there, settings, attempt_id, target)
            if not may_be_done_again(there):
                return attempt_id, False
            say(end_of(attempt_id, there))
        raise UsageError(f"{job_id} was tried {MOST_ATTEMPTS} times", field=ID_FLAG, hint="give another one")


def _check_same(there: dict[str, Any], settings: str, job_id: str, target: Address) -> None:
    if (there.get("metadata") or {}).get(SETTINGS, settings) != settings:  # what others submit says nothing of them
        raise UsageError(
            f"{job_id} is another job on this cluster, with other settings",
            field=ID_FLAG,
            hint=f"give this one an id of its own. That one is followed by:\n    {_again(job_id, target)}",
        )


async def _answer_of(ask: Callable[[], Awaitable[T]], seconds: float, say: Say) -> T:
    """Ask the cluster, again for ``seconds`` while it does not answer."""
    patience = Patience(seconds, say)
    while True:
        try:
            answer = await ask()
            patience.heard()
            return answer
        except Unanswered as error:
            patience.lost(error)
        await asyncio.sleep(AGAIN_SECONDS)


async def _hand_over(order: _Order, job_id: str) -> dict[str, Any] | None:
    """Submit the job once, whatever becomes of the connection meanwhile.

    Returns the job of this id that was found there instead: ours, whose answer was lost, or somebody else's, who was
    faster.
    """
    api, job = order.api, order.job
    name, data = working_dir(job)
    patience = Patience(SUBMIT_SECONDS, order.say)
    while True:
        try:
            uri = await api.send_package(name, data)
            environment = {"working_dir": uri, "env_vars": order.variables}
            await api.submit(job_id, entrypoint(job), environment, {SETTINGS: order.settings})
            return None
        except RunError as error:
            # the request may have arrived all the same, now or a try ago
            await asyncio.sleep(AGAIN_SECONDS if isinstance(error, Unanswered) else 0)
            try:
                there = await _job_if_there(api, job_id)
                if there is not None:
                    return there
            except Unanswered:
                pass
            if not isinstance(error, Unanswered):
                raise
            try:
                patience.lost(error)
            except Unanswered:
                raise error.with_hint(_if_submitted(job_id, api.address)) from None


async def _job_if_there(api: JobsApi, job_id: str) -> dict[str, Any] | None:
    try:
        return await api.job(job_id)
    except NoSuchJob:
        return None


def _follow(
    api: JobsApi, job_id: str, patience: Patience, console: Console, *, is_submitted_again: bool = True
) -> Outcome[JsonObject]:
    """Follow a job to its end. Without ``is_submitted_again`` the command ends the same way each time from then on."""
    target, shown, is_stopped = api.address, Shown(), False
    with noticed_sigterm():
        while True:
            try:
                job = asyncio.run(_followed(api, job_id, shown, patience, console, is_stopped=is_stopped))
                outcome = _ended(job_id, job, shown.end, retry=None if is_submitted_again else False)
                if outcome.exit_code or not is_quiet():
                    console.say(_end_in_words(end_of(job_id, job), outcome.error))
                return outcome
            except Unanswered as error:
                if not patience.seconds:  # it has never answered
                    raise
                raise error.with_hint(f"the job may go on. This follows it:\n    {_again(job_id, target)}") from None
            except KeyboardInterrupt as interrupt:
                answer = "leave" if is_stopped else console.ask(interrupt, job_id)
                if answer == "leave":
                    left = _left(job_id, shown, patience, is_stopped=is_stopped)
                    console.say(f"{left}; this follows it again:\n    {_again(job_id, target)}")
                    return Outcome(exit_code=STOPPED, error=left, submission_id=job_id)
                is_stopped = answer == "stop"


def _end_in_words(end: str, error: str | None) -> str:
    """Say how a job has ended. Where its log was not shown, which says the error, that is said, too."""
    return f"{end}: {error}" if is_quiet() and error and error != end else end


def _left(job_id: str, shown: Shown, patience: Patience, *, is_stopped: bool) -> str:
    """Say what is known of a job that we leave."""
    if is_stopped and not shown.is_being_stopped:
        return f"{job_id} may not have been asked to stop: the cluster has not answered"
    if is_stopped:
        return f"{job_id} is being stopped without us"
    if patience.is_silent:
        return f"{job_id} may go on without us: the cluster does not answer"
    return f"{job_id} goes on without us"


def _ended(job_id: str, job: dict[str, Any], log: str, retry: bool | None) -> Outcome[JsonObject]:
    """Return what the job's own result says, whose line stands at the end of its log unless it died."""
    code, own = exit_code(job), result_in(log)
    if own is None:
        return Outcome(exit_code=code, error=end_of(job_id, job) if code else None, submission_id=job_id, retry=retry)
    known: dict[str, Any] = {name: own.get(name) for name in ("output", "run_id", "totals", "error")}
    return Outcome(**known, exit_code=code, submission_id=job_id, retry=retry)


async def _followed(
    api: JobsApi, job_id: str, shown: Shown, patience: Patience, console: Console, *, is_stopped: bool
) -> dict[str, Any]:
    async with api:
        if is_stopped:
            console.say(f"stopping {job_id}: what it is at is finished first (Ctrl-C: do not wait)")
        return await follow(api, job_id, shown, patience, console, is_stopped=is_stopped)


def _new_id(job: str) -> str:
    return f"m2f-batch-{job}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def _checked_id(job_id: str) -> str:
    if not ID.fullmatch(job_id):
        allowed = "up to 128 letters, digits, '-', '_', '.'"
        raise UsageError("is not allowed", field="submission id", value=job_id, allowed=allowed)
    return job_id


def _again(job_id: str, target: Address) -> str:
    return shlex.join(["m2f-batch", "submit", "follow", job_id, "--address", target.url])


def _if_submitted(job_id: str, target: Address) -> str:
    return f"if it was submitted already, this follows it:\n    {_again(job_id, target)}"
