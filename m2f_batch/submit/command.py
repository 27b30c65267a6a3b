"""Sends a checked job to a Ray cluster, follows its log, and ends with its exit code (``m2f-batch submit``)."""

import asyncio
import re
import secrets
import shlex
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from m2f_batch.errors import RunError, UsageError
from m2f_batch.messages.terminal import printable
from m2f_batch.result import result_in, tell
from m2f_batch.submit.address import Address, check_may_submit, find_token, parse_address
from m2f_batch.submit.client import JobsApi, NoSuchJob, Unanswered
from m2f_batch.submit.following import (
    PATIENCE_SECONDS,
    STOPPED,
    Patience,
    Shown,
    end_of,
    exit_code,
    follow,
    may_be_done_again,
)
from m2f_batch.submit.interrupts import noticed_sigterm, what_to_do
from m2f_batch.submit.jobs import Job, runtime_environment
from m2f_batch.submit.package import entrypoint, working_dir

SUBMIT_SECONDS = 180.0  # of trying again to hand a job over, and with an id of its own to reach the cluster before
AGAIN_SECONDS = 2.0
MOST_ATTEMPTS = 100
SETTINGS = "m2f_batch_settings"  # in a job's metadata
ID_FLAG = "--submission-id"
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
T = TypeVar("T")


def submit(job: Job, address: str | None, *, submission_id: str | None = None, is_followed: bool = True) -> int:
    """Submit a job and follow it. Returns its exit code, or 0 at once where it is not followed.

    A job of this ``submission_id`` that runs or is done is followed. One that was stopped or failed goes on as ID-2,
    ID-3 and so on, unless it would end the same way again (exit codes 2 and 3).
    """
    target, token = parse_address(address), find_token()
    check_may_submit(target, token is not None, job.allow_no_token, job.how_to_allow)
    job_id = _checked_id(submission_id) if submission_id else _new_id(job.name)
    variables, api = runtime_environment(), JobsApi(target, token)
    try:
        job_id, is_new = asyncio.run(_submit(api, job, job_id, variables, is_known=submission_id is not None))
    except KeyboardInterrupt:
        tell(error="interrupted while it was submitted")
        _say(f"interrupted; {_if_submitted(job_id, target)}")
        return STOPPED
    tell(submission_id=job_id)
    _say(f"{'submitted' if is_new else 'is there already'}: {job_id} at {target.url}")
    if not is_followed:
        _say(f"this follows it:\n    {_again(job_id, target)}")
        print(job_id, flush=True)
        return 0
    return _follow(api, job_id, Patience(PATIENCE_SECONDS, _say))


def follow_submitted(job_id: str, address: str | None) -> int:
    """Follow a job that was submitted before, from the beginning of its log. Returns its exit code.

    Raises UsageError for a job that the cluster does not know.
    """
    target, token = parse_address(address), find_token()
    tell(submission_id=job_id)
    _warn_unencrypted(target, token is not None)
    return _follow(JobsApi(target, token), _checked_id(job_id), Patience(0, _say), is_submitted_again=False)


def _warn_unencrypted(target: Address, asks: bool) -> None:
    if asks and not (target.is_loopback or target.is_encrypted):
        _say(f"{target.url}: the token travels unencrypted; use https://, or a tunnel, beyond a network you trust")


async def _submit(
    api: JobsApi, job: Job, job_id: str, variables: dict[str, str], *, is_known: bool
) -> tuple[str, bool]:
    """Return the id under which the job is on the cluster, and whether it is there since now."""
    target, settings = api.address, job.settings(variables)
    seconds = SUBMIT_SECONDS if is_known else 0  # without an id somebody waits, maybe for a typo
    async with api:
        asks = await _answer_of(api.authenticate, seconds)
        check_may_submit(target, asks, job.allow_no_token, job.how_to_allow)
        _warn_unencrypted(target, asks)
        for attempt in range(1, MOST_ATTEMPTS + 1 if is_known else 2):
            attempt_id = job_id if attempt == 1 else f"{job_id}-{attempt}"
            there = await _answer_of(partial(_job_if_there, api, attempt_id), seconds) if is_known else None
            if there is None:
                found = await _hand_over(api, attempt_id, job, variables, settings)
                _check_same(found or {}, settings, attempt_id, target)
                return attempt_id, True
            _check_same(there, settings, attempt_id, target)
            if not may_be_done_again(there):
                return attempt_id, False
            _say(end_of(attempt_id, there))
        raise UsageError(f"{job_id} was tried {MOST_ATTEMPTS} times", field=ID_FLAG, hint="give another one")


def _check_same(there: dict[str, Any], settings: str, job_id: str, target: Address) -> None:
    if (there.get("metadata") or {}).get(SETTINGS, settings) != settings:  # what others submit says nothing of them
        raise UsageError(
            f"{job_id} is another job on this cluster, with other settings",
            field=ID_FLAG,
            hint=f"give this one an id of its own. That one is followed by:\n    {_again(job_id, target)}",
        )


async def _answer_of(ask: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Ask the cluster, again for ``seconds`` while it does not answer."""
    patience = Patience(seconds, _say)
    while True:
        try:
            answer = await ask()
            patience.heard()
            return answer
        except Unanswered as error:
            patience.lost(error)
        await asyncio.sleep(AGAIN_SECONDS)


async def _hand_over(
    api: JobsApi, job_id: str, job: Job, variables: dict[str, str], settings: str
) -> dict[str, Any] | None:
    """Submit the job once, whatever becomes of the connection meanwhile.

    Returns the job of this id that was found there instead: ours, whose answer was lost, or somebody else's, who was
    faster.
    """
    name, data = working_dir(job)
    patience = Patience(SUBMIT_SECONDS, _say)
    while True:
        try:
            uri = await api.send_package(name, data)
            environment = {"working_dir": uri, "env_vars": variables}
            await api.submit(job_id, entrypoint(job), environment, {SETTINGS: settings})
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


def _follow(api: JobsApi, job_id: str, patience: Patience, *, is_submitted_again: bool = True) -> int:
    """Follow a job to its end. Without ``is_submitted_again`` the command ends the same way each time from then on."""
    target, shown, is_stopped = api.address, Shown(), False
    with noticed_sigterm():
        while True:
            try:
                job = asyncio.run(_followed(api, job_id, shown, patience, is_stopped=is_stopped))
                _say(end_of(job_id, job))
                _tell_end(job_id, job, shown.end)
                if not is_submitted_again:
                    tell(retry=False)
                return exit_code(job)
            except Unanswered as error:
                if not patience.seconds:  # it has never answered
                    raise
                raise error.with_hint(f"the job may go on. This follows it:\n    {_again(job_id, target)}") from None
            except KeyboardInterrupt as interrupt:
                answer = "leave" if is_stopped else what_to_do(interrupt, job_id)
                if answer == "leave":
                    left = _left(job_id, shown, patience, is_stopped=is_stopped)
                    tell(error=left)
                    _say(f"{left}; this follows it again:\n    {_again(job_id, target)}")
                    return STOPPED
                is_stopped = answer == "stop"


def _left(job_id: str, shown: Shown, patience: Patience, *, is_stopped: bool) -> str:
    """Say what is known of a job that we leave."""
    if is_stopped and not shown.is_being_stopped:
        return f"{job_id} may not have been asked to stop: the cluster has not answered"
    if is_stopped:
        return f"{job_id} is being stopped without us"
    if patience.is_silent:
        return f"{job_id} may go on without us: the cluster does not answer"
    return f"{job_id} goes on without us"


def _tell_end(job_id: str, job: dict[str, Any], log: str) -> None:
    """Tell our result what the job's own says, whose line stands at the end of its log unless it died."""
    own = result_in(log) or {}
    tell(**{name: own[name] for name in ("output", "run_id", "totals", "error") if own.get(name) is not None})
    if exit_code(job) and not own:
        tell(error=end_of(job_id, job))


async def _followed(api: JobsApi, job_id: str, shown: Shown, patience: Patience, *, is_stopped: bool) -> dict[str, Any]:
    async with api:
        if is_stopped:
            _say(f"stopping {job_id}: what it is at is finished first (Ctrl-C: do not wait)")
        return await follow(api, job_id, shown, patience, _write, _say, is_stopped=is_stopped)


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


def _write(text: str) -> None:
    """Write a part of the job's log to our standard output."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(text: str) -> None:
    print(printable(f"m2f-batch submit: {text}"), file=sys.stderr, flush=True)
