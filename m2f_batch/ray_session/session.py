"""Connects to a Ray cluster, or starts a local Ray, for one run, with the settings of Ray that we change.

Each has its reason. More are in ``data_settings`` (Ray Data), ``few_waiting`` (units that wait), ``bytecode``,
``forwarded`` (variables that travel), ``raw_lines`` (Ray's log), ``token`` and ``processes.FOR_START``. Options of
single tasks and actors stand where they are started: ``flow/pipeline``, ``flow/crashes/gate``, ``train/workers``.
"""

import json
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import ray

from m2f_batch.config.segment import ComputeConfig
from m2f_batch.errors import RunError, UsageError
from m2f_batch.messages.masking import redact
from m2f_batch.processes import FOR_START, PASSIVE, START_SECONDS
from m2f_batch.ray_session.bytecode import kept_bytecode
from m2f_batch.ray_session.forwarded import forwarded
from m2f_batch.ray_session.raw_lines import raw_lines_in_log
from m2f_batch.ray_session.token import keep_private
from m2f_batch.storage import allow
from m2f_batch.storage.s3 import settings

# Ray Data logs the traceback of every failed task; ours says what went wrong, once, where it is caught
LOGGERS = {"ray": logging.ERROR, "ray.data": logging.CRITICAL}
QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a warning about a default of the future
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # C++ lines on the user's terminal
}


@contextmanager
def connected(compute: ComputeConfig) -> Iterator[None]:
    """Open a Ray session for one run, of which a process has one at a time.

    A session that is open already is used and left open. Either way Ray's settings in this process are then as they
    were.
    """
    address = compute.address or os.environ.get("RAY_ADDRESS")
    _check_reachable(address, "RAY_ADDRESS" if compute.address is None else "compute.address")
    if ray.is_initialized():
        _check_nothing_of_job()
    with _settings_kept(), _set(QUIET):
        for name, level in LOGGERS.items():
            logging.getLogger(name).setLevel(level)
        with nullcontext() if ray.is_initialized() else _joined(address):
            yield


def _check_nothing_of_job() -> None:
    """Raise UsageError where the job has settings that the workers of an open session cannot have."""
    for key, is_of_job in (("allow", allow.is_of_job()), ("s3", settings.is_of_job())):
        if is_of_job:
            raise UsageError(
                "Ray was started in this process before the job, so that its workers do not know of it",
                field=f"storage.{key}",
                hint="let the job start or join Ray (compute.address)",
            )


@contextmanager
def _settings_kept() -> Iterator[None]:
    """Give Ray Data's settings and the loggers' levels back as they were. They are of the whole process."""
    from ray.data import DataContext

    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        with DataContext.current(DataContext.get_current().copy()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _joined(address: str | None) -> Iterator[None]:
    """Open a session of our own."""
    on_sigterm = signal.getsignal(signal.SIGTERM)
    _join(address)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # ray.init puts its own there, which exits at once with code 15
    with raw_lines_in_log():
        try:
            yield
        finally:
            ray.shutdown()


def _join(address: str | None) -> None:
    """Join the cluster at the address, or start a local Ray without one. Raises UsageError, RunError."""
    environment = _environment(is_local=address is None)
    if address is None:
        keep_private()
    try:
        with _muted_stderr(), kept_bytecode(), _set(PASSIVE | FOR_START):
            ray.init(
                address=address or "local",  # None would join any Ray that happens to run on this machine
                include_dashboard=None if address else False,  # seconds of start-up, for a page nobody asked for
                log_to_driver=False,  # workers' chatter; what a user must know travels as data or as an error
                logging_level=logging.ERROR,
                runtime_env={"env_vars": environment} if environment else None,
            )
    except Exception as error:
        # where a node does not start in time, Ray raises an Exception of no class of its own
        if not isinstance(error, OSError | ValueError | RuntimeError) and type(error) is not Exception:
            raise
        reason = next(iter(str(error).splitlines()), "")
        if address is None:
            raise RunError(
                f"Ray does not start on this machine: {reason}",
                hint=f"it was given {START_SECONDS} s; free CPUs, memory and the disk of RAY_TMPDIR or /tmp, and give "
                "the same command again",
            ) from None
        raise UsageError(
            f"cannot be reached ({reason})",
            field="compute.address",
            value=address,
            hint=f"start it, or leave it out.{_token_hint()}",
        ) from None


def _environment(*, is_local: bool) -> dict[str, str]:
    """Return the variables that workers are given. Raises UsageError for what Ray's job metadata must not hold."""
    # Ray refuses a variable that the submitted job's own environment has set already
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    inherited = (job.get("runtime_env") or {}).get("env_vars") or {}
    for name in (allow.OF_DRIVER, settings.OF_DRIVER):
        if name in inherited:
            hint = "take it out of the job's environment variables"
            raise UsageError("is this program's own", field=name, hint=hint)
    of_job = allow.environment() | settings.environment()
    if is_local:  # its processes inherit ours, and start sooner without an environment of their own
        return of_job
    wanted = forwarded() | {name: os.environ.get(name, value) for name, value in PASSIVE.items()}
    _check_no_keys(wanted)
    return {name: value for name, value in wanted.items() if name not in inherited} | of_job


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    """Give these variables to processes that start meanwhile, unless the user set them otherwise."""
    added = [name for name in variables if name not in os.environ]
    os.environ.update({name: variables[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _check_no_keys(variables: Mapping[str, str]) -> None:
    """Raise UsageError where a variable that travels holds a key, because Ray's job metadata would show it."""
    for name, value in variables.items():
        if redact(value) != value:
            raise UsageError(
                "holds a key, which would be seen in Ray's job metadata",
                field=name,
                value=redact(value),
                hint="keys belong to the nodes, in the variables or files that the AWS tools read",
            )


def _token_hint() -> str:
    """Say what to do about a token, because Ray answers the same for a missing one as for a missing cluster."""
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return " RAY_AUTH_MODE=token: check that its token is the cluster's"
    return " Where it runs but wants a token (a head that found one in ~/.ray/auth_token does): set RAY_AUTH_MODE=token"


def _check_reachable(address: str | None, field: str) -> None:
    """Raise UsageError where nobody listens, because Ray itself would go on trying for many minutes.

    ``field`` is where the address was given: RAY_ADDRESS is set to a Jobs API for Ray's own ``ray job submit``.
    """
    is_variable = field == "RAY_ADDRESS"
    instead = "unset it for a local Ray, or give --address HOST:6379 of the head"
    if re.match("https?://", address or ""):
        hint = instead if is_variable else "give HOST:6379 of the head, or ray://HOST:10001"
        raise UsageError("is a Jobs API, which m2f-batch submit takes", field=field, value=address, hint=hint)
    place = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)", address or "")
    if place is None:
        return
    try:
        socket.create_connection((place[1], int(place[2])), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"nobody answers at {address} ({error})",
            field=field,
            hint=instead
            if is_variable
            else "give the address of a running Ray cluster, auto on one of its nodes, or none for a local Ray",
        ) from None


@contextmanager
def _muted_stderr() -> Iterator[None]:
    """Drop the lines that Ray's C++ writes past Python. Exceptions come through."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
