"""Connects to Ray, sets most settings of Ray that we change, each with its reason, and plans who gets which resources.

The other settings are in ``few_waiting`` (units that wait), ``bytecode``, ``forwarded`` (variables that travel),
``raw_lines`` (Ray's log), ``token`` and ``processes.FOR_START``. Options of single tasks and actors stand where they
are started: ``flow/pipeline`` and ``train/workers/ray_train``.
"""

import json
import logging
import math
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.data import DataContext
from ray.data.context import AutoscalingConfig
from ray.exceptions import RayError, RayTaskError
from ray.experimental.internal_kv import _internal_kv_get

from m2f_batch.config.segment import ComputeConfig
from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.messages.masking import redact
from m2f_batch.processes import FOR_START, PASSIVE, START_SECONDS
from m2f_batch.ray_session.bytecode import kept_bytecode
from m2f_batch.ray_session.few_waiting import set_few_waiting
from m2f_batch.ray_session.forwarded import forwarded
from m2f_batch.ray_session.raw_lines import raw_lines_in_log
from m2f_batch.ray_session.slots import SlotCounts
from m2f_batch.ray_session.token import keep_private
from m2f_batch.storage import allow
from m2f_batch.storage.s3 import settings

_A = TypeVar("_A")
_T = TypeVar("_T")
# where Ray's is_autoscaler_v2 looks (ray/autoscaler/v2/utils.py): key and namespace
AUTOSCALER_V2 = (b"__autoscaler_v2_enabled", b"__autoscaler")
NEVER = -1.0  # a utilization that no pool falls to
LOOK_SECONDS = 2.0  # until Ray's count of free CPUs was seen to follow


@dataclass(frozen=True)
class Resources:
    """The resources that a run asks of the cluster. CPUs are Ray's bookkeeping, because forward passes pin threads."""

    device: str
    actors: tuple[int, int]
    gpus_per_actor: float
    cpus_per_actor: float
    cpus_per_task: float
    starts_nodes: bool = False  # an autoscaler does, for what finds no slot

    @property
    def asked_at_once(self) -> int:
        """The replicas to ask for at the start: all, where that makes an autoscaler start a node for each.

        Elsewhere they would take room from tasks: in Ray Data's reckoning where they find no GPU, in fact on CPUs.
        """
        return self.actors[1] if self.device == "cuda" and self.starts_nodes else self.actors[0]

    def held(self, nodes: Sequence[Mapping[str, float]], at_work: int = 0) -> SlotCounts:
        """Count the slots on these nodes, where ``at_work`` replicas are known to work.

        Replicas take every GPU that there is, up to the most, from before they have labeled anything. On CPUs the pool
        has its fewest, or more once they are at work. Tasks that fetch and decode get the rest.
        """
        cpus = sum(node.get("CPU", 0.0) for node in nodes)
        kind, share = ("GPU", self.gpus_per_actor) if self.device == "cuda" else ("CPU", self.cpus_per_actor)
        most = min(self.actors[1], sum(int(node.get(kind, 0.0) / share) for node in nodes))
        there = most if self.device == "cuda" else min(most, max(self.actors[0], at_work))
        return SlotCounts(max(1.0, (cpus - there * self.cpus_per_actor) // self.cpus_per_task), max(1, most))

    def fits(self, nodes: Sequence[Mapping[str, float]]) -> bool:
        """Tell whether one replica, and beside it a task that feeds it, fit on these nodes."""
        cpus = sum(node.get("CPU", 0.0) for node in nodes)
        return cpus >= self.cpus_per_actor + self.cpus_per_task and any(
            node.get("CPU", 0.0) >= self.cpus_per_actor and node.get("GPU", 0.0) >= self.gpus_per_actor
            for node in nodes
        )

    def may_starve(self, nodes: Sequence[Mapping[str, float]]) -> bool:
        """Tell whether replicas could take every CPU of these nodes, and leave none to the tasks that feed them."""
        cpus, fitting = 0.0, 0
        for node in nodes:
            cpus += node.get("CPU", 0.0)
            by_cpu = int(node.get("CPU", 0.0) / self.cpus_per_actor)
            by_gpu = int(node.get("GPU", 0.0) / self.gpus_per_actor) if self.gpus_per_actor else by_cpu
            fitting += min(by_cpu, by_gpu)
        taken = min(self.asked_at_once, fitting) * self.cpus_per_actor
        return fitting > 0 and cpus - taken < self.cpus_per_task


@contextmanager
def connected(compute: ComputeConfig) -> Iterator[None]:
    """Open a Ray session for one run. A session that is open already is used and left open."""
    _quiet()
    address = compute.address or os.environ.get("RAY_ADDRESS")
    _check_reachable(address)
    if ray.is_initialized():
        for key, is_of_job in (("allow", allow.is_of_job()), ("s3", settings.is_of_job())):
            if is_of_job:
                raise UsageError(
                    "Ray was started in this process before the job, so that its workers do not know of it",
                    field=f"storage.{key}",
                    hint="let the job start or join Ray (compute.address)",
                )
        yield
        return
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


def _check_reachable(address: str | None) -> None:
    """Raise UsageError where nobody listens, because Ray itself would go on trying for many minutes."""
    place = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)", address or "")
    if place is None:
        return
    try:
        socket.create_connection((place[1], int(place[2])), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"nobody answers at {address} ({error})",
            field="compute.address",
            hint="give the address of a running Ray cluster, auto on one of its nodes, or none for a local Ray",
        ) from None


def set_data_context(resources: Resources) -> None:
    """Set Ray Data's settings for our runs, each with its reason."""
    context = DataContext.get_current()
    context.enable_progress_bars = False  # ours counts images, not blocks
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # 30 minutes without a GPU node is a queue, not a failure
    context.wait_for_min_actors_s = -1  # the same
    context.actor_init_retry_on_errors = True  # a node may fail to fetch the model once
    context.max_errored_blocks = 0  # a failed image is a row; a lost block would be lost rows
    context.raise_original_map_exception = True  # our errors arrive as themselves
    context.target_max_block_size = 1  # byte: each unit leaves its task when it is done, and is committed by itself
    context.execution_options.preserve_order = False  # one slow unit must not hold the others' results back
    set_few_waiting(context)  # what waits on a node is lost with it
    context.autoscaling_config = AutoscalingConfig()
    if resources.asked_at_once > resources.actors[0]:
        # by default a pool half of whose slots are empty, as all are before the first units are prepared, ends its
        # replicas one by one and then starts them again, each with its model to load; the last units still free them
        context.autoscaling_config.actor_pool_util_downscaling_threshold = NEVER


def on_cluster(act: Callable[[_A], _T], items: Iterable[_A]) -> Iterator[_T]:
    """Map in tasks of one CPU each, in the order in which they end, no more at once than the cluster has free.

    A task that waited for a CPU would make an autoscaler start a node, for the few seconds that this takes. Half of the
    CPUs are left free for it, because it hears of waiting tasks and of free CPUs from different nodes, not at one time.
    """
    task, share = ray.remote(num_cpus=1)(act), 2 if starts_nodes() else 1
    left, running = iter(items), list[Any]()
    looked_at, room = -math.inf, 0
    try:
        while True:
            if time.monotonic() - looked_at > LOOK_SECONDS:  # what was begun just now is not counted at once
                free = int(ray.available_resources().get("CPU", 0.0)) + len(running)
                looked_at, room = time.monotonic(), max(free // share - len(running), not running)
            started = [task.remote(item) for item in islice(left, room)]
            running, room = running + started, 0
            if not running:
                return
            done, running = ray.wait(running, timeout=LOOK_SECONDS)
            room = len(done)
            yield from ray.get(done)
    finally:
        for each in running:  # after an error, or where nobody asks for the rest
            with suppress(RayError):
                ray.cancel(each)


def may_grow(compute: ComputeConfig) -> bool:
    """Tell whether the cluster may get nodes that it does not have yet, as any may but a local Ray."""
    return compute.address is not None or "RAY_ADDRESS" in os.environ


def starts_nodes() -> bool:
    """Tell whether an autoscaler is there, which starts nodes for what finds no slot on those that there are.

    Ray says nowhere what kinds of nodes it could start, nor how many. On Kubernetes and by Ray's launcher it is the
    autoscaler's second version, whose mark stands in the GCS. Of the first, which every head runs, only a cluster that
    Ray started itself has kinds of nodes with names.
    """
    if _internal_kv_get(AUTOSCALER_V2[0], namespace=AUTOSCALER_V2[1]) == b"1":
        return True
    status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}")
    kinds = (status.get("autoscaler_report") or {}).get("active_nodes") or {}
    return any(not re.fullmatch("node_[0-9a-f]+", kind) for kind in kinds)


def present() -> list[dict[str, float]]:
    """Return the resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def held_now(resources: Resources, at_work: int) -> SlotCounts | None:
    """Count the slots on the nodes that are alive. None: the head does not answer, which is said elsewhere."""
    with suppress(RayError, RuntimeError, ConnectionError):
        return resources.held(present(), at_work)
    return None


def plan_resources(
    compute: ComputeConfig, nodes: Sequence[Mapping[str, float]], *, may_grow: bool, starts_nodes: bool = False
) -> Resources:
    """Plan who gets what, from the config and the resources of the cluster's nodes (never the driver's machine).

    Shares of CPUs are for a cluster that has too few and gets no more. Where nodes are still to come, or an autoscaler
    ``starts_nodes``, the present nodes say nothing.
    """
    cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    on_gpu = compute.device == "cuda" or (compute.device == "auto" and gpus > 0)
    share = (compute.gpus_per_actor or 1.0) if on_gpu else 0.0
    if on_gpu and not may_grow and share > max(node.get("GPU", 0.0) for node in nodes):
        what = f"{share:g} GPUs on one node" if gpus else "a GPU"
        raise UsageError(f"cuda needs {what}, and this Ray has none; allowed here: auto, cpu", field="compute.device")
    if not on_gpu and compute.gpus_per_actor is not None:
        raise UsageError(
            "does not apply to compute.device cpu", field="compute.gpus_per_actor", value=compute.gpus_per_actor
        )
    low, high = _bounds(compute, int(gpus // share) if on_gpu else int(max(cpus - 1, 0) // compute.threads_per_actor))
    device, per_actor = ("cuda", 1.0) if on_gpu else ("cpu", float(compute.threads_per_actor))
    if starts_nodes or (may_grow and not cpus):
        # As many CPU replicas as are wanted could take every CPU that ever comes, and would wait for ever for images
        # that nobody may fetch. Ray Data starts more than the fewest only where tasks have their slots too.
        low = low if on_gpu or low * per_actor + 1.0 <= cpus else 1
        return Resources(device, (low, high), share, per_actor, 1.0, starts_nodes)
    # an actor must fit on one node, whatever its threads
    largest = max((node.get("CPU", 0.0) for node in nodes), default=0.0) or 1.0
    per_actor, per_task = min(per_actor, largest), min(1.0, largest)
    if low * per_actor + per_task > cpus:
        # actors that take every CPU would wait for ever for images that nobody may fetch
        per_actor, per_task = math.floor(50 * max(cpus, 1.0) / low) / 100, 0.5
    return Resources(device, (low, high), share, per_actor, per_task)


def _bounds(compute: ComputeConfig, fitting: int) -> tuple[int, int]:
    if compute.actors is None:
        return max(1, fitting), max(1, fitting)
    return compute.actors if isinstance(compute.actors, tuple) else (compute.actors, compute.actors)


def run_error(error: RayError) -> Exception:
    """Turn a Ray exception into our own error behind it, a bug as it is, or else a failed run in one line."""
    cause: BaseException | None = error
    innermost: BaseException = error
    while cause is not None:
        innermost = cause
        # Ray's copy of an error is one of its own kind too, with a traceback for its text
        if isinstance(cause, (RunError, UsageError, TransientError)) and not isinstance(cause, RayError):
            # Ray Data appends how its own retries could be configured
            text, added, _ = str(cause).partition("\nFailed to apply UDF transform")
            return type(cause)(text) if added and len(cause.args) == 1 else cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    if type(innermost).__name__ == "OutOfMemoryError":  # torch's, which a driver does not import
        return RunError("out of memory on the device; lower compute.batch_size, or take a smaller preprocess.size")
    if isinstance(error, RayTaskError) and not isinstance(innermost, RayError | OSError | MemoryError):
        return error
    lines = [line for line in str(error).splitlines() if line.strip()]
    return RunError(f"Ray: {type(error).__name__}: {lines[-1] if lines else ''}"[:500])


def _quiet() -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a warning about a default of the future
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # C++ lines on the user's terminal
    logging.getLogger("ray").setLevel(logging.ERROR)
    # Ray Data logs the traceback of every failed task; ours says what went wrong, once, where it is caught
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


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
