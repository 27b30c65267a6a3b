"""The coat of Ray Train around a training: so many workers on a cluster, started again where one is lost.

Each worker does what one process alone does (``training``); Ray puts them in place, connects them and starts all again
when one dies or, with an elastic number of workers, when nodes come and go. They go on from the last checkpoint in
OUTPUT, which all of them must be able to read: with several nodes a bucket or a shared disk.
"""

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from m2f_batch.config import ComputeConfig
from m2f_batch.datasets.dataset import Dataset
from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.flow.cluster import connected
from m2f_batch.flow.stopping import noticed_stops
from m2f_batch.storage.run import RunDirectory
from m2f_batch.train import world
from m2f_batch.train.checkpoints import complete
from m2f_batch.train.ledger import Ledger
from m2f_batch.train.progress import shown
from m2f_batch.train.ray_stream import ray_stream
from m2f_batch.train.samples import Recipe
from m2f_batch.train.stream import Span, Step

if TYPE_CHECKING:  # it loads transformers
    from m2f_batch.train.job import TrainJob

LEAST_CPU = 0.25  # of a worker, for Ray's books: what it computes with is ``threads_per_worker``
TASK_CPUS = 0.5  # of a task that makes examples, so that there is room for one on the smallest machine


@dataclass(frozen=True)
class Share:
    """What each worker holds and may use: Ray's CPUs and GPUs, threads, and tasks at once that make its examples."""

    cpus: float
    gpus: float
    threads: int
    tasks: int


def train_on_ray(job: "TrainJob", place: RunDirectory, say: Callable[[str], None]) -> None:
    """Train on a Ray cluster, or on a local Ray. Raises UsageError, or RunError when training cannot go on."""
    compute = job.config.compute
    with connected(ComputeConfig(address=compute.address, device=compute.device)), TemporaryDirectory() as scratch:
        workers = job.config.train.workers
        share = share_of(job, ray.cluster_resources())
        say(f"ray     {workers if isinstance(workers, int) else list(workers)} workers, each {share.threads} threads")
        ledger = ray.remote(Ledger).options(num_cpus=0).remote()
        trainer = TorchTrainer(
            _work,
            train_loop_config={"job": ray.put(job), "place": place, "share": share, "ledger": ledger},
            torch_config=TorchConfig(),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=share.gpus > 0,
                resources_per_worker={"CPU": share.cpus} | ({"GPU": share.gpus} if share.gpus else {}),
            ),
            run_config=RunConfig(name="m2f-batch", storage_path=scratch, failure_config=FailureConfig(max_failures=-1)),
        )
        with _said(ledger, say), noticed_stops(lambda: bool(ray.get(ledger.stop.remote()))):
            _fit(trainer)
        if (error := ray.get(ledger.why_over.remote())) is not None:
            raise error


def _fit(trainer: TorchTrainer) -> None:
    """In a thread: in the main one Ray Train takes Ctrl-C for itself, and ends the process as if all had gone well."""
    over: Future[None] = Future()

    def run() -> None:
        try:
            trainer.fit()
            over.set_result(None)
        except BaseException as error:  # noqa: BLE001  # raised below
            over.set_exception(error)

    threading.Thread(target=run, name="fit", daemon=True).start()
    over.result()


@contextmanager
def _said(ledger: ActorHandle, say: Callable[[str], None]) -> Iterator[None]:
    """What the first worker says, said here: workers' own output stays in Ray's logs."""
    over = threading.Event()

    def listen() -> None:
        while not over.wait(1.0):
            with suppress(RayError):
                for line in ray.get(ledger.take.remote()):
                    say(line)

    thread = threading.Thread(target=listen, name="lines", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(RayError):
            for line in ray.get(ledger.take.remote()):
                say(line)


def share_of(job: "TrainJob", cluster: dict[str, Any]) -> Share:
    """How a cluster is shared out. At least one CPU is left for the tasks that make examples. Raises UsageError."""
    compute, workers = job.config.compute, job.config.train.workers
    least, most = (workers, workers) if isinstance(workers, int) else workers
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    device = compute.device if compute.device != "auto" else "cuda" if gpus else "cpu"
    per_worker = (compute.gpus_per_worker or 1.0) if device == "cuda" else 0.0
    if per_worker * least > gpus:
        raise UsageError(f"train.workers: {least} workers need {per_worker * least:g} GPUs; the cluster has {gpus:g}")
    present = max(least, min(most, int(gpus / per_worker) if per_worker else int(max(1.0, cpus))))
    data_cpus = float(compute.data_cpus or max(1.0, cpus - present if device == "cuda" else cpus / 2))
    held = (cpus - min(data_cpus, cpus - LEAST_CPU * present)) / present
    if held < LEAST_CPU * 0.99:
        raise UsageError(f"train.workers: {present} workers do not fit on {cpus:g} CPUs; give fewer")
    threads = compute.threads_per_worker or max(1, math.floor(cpus / present))
    return Share(round(held, 3), per_worker, threads, max(1, int(data_cpus / TASK_CPUS / present)))


def _work(config: dict[str, Any]) -> None:
    """What each worker does."""
    # takes seconds, and only workers need it: neither the command nor Ray's controller, which load this module too
    from m2f_batch.train.training import Stopped, train

    job: TrainJob = ray.get(config["job"])
    place: RunDirectory = config["place"]
    share: Share = config["share"]
    ledger = config["ledger"]
    if world.rank() == 0:
        ray.get(ledger.begin.remote(max(complete(place), default=0)))
    world.gathered(None)
    if ray.get(ledger.why_over.remote()) is not None:
        return
    dataset: ray.ObjectRef[Dataset] = ray.put(job.train)

    def stream(recipe: Recipe, span: Span) -> Iterator[Step]:
        steps = ray_stream(dataset, recipe, span, share.tasks, TASK_CPUS)
        return shown(steps, span, say) if world.rank() == 0 else steps

    def say(line: str) -> None:
        if world.rank() == 0:
            ledger.say.remote(line)

    try:
        with _asked_to_stop(ledger) as is_stopping:
            train(job, place, stream, get_device(), share.threads, say, is_stopping)
    except Stopped:
        ray.get(ledger.end.remote(RunError("stopped")))  # started again by Ray, all workers end at once
        raise
    except RayTaskError as error:  # of a task that makes examples
        cause = error.cause
        ray.get(ledger.end.remote(cause if isinstance(cause, RunError) else RunError(str(error))))
        raise
    except (UsageError, RunError, TransientError) as error:
        ray.get(ledger.end.remote(error))
        raise
    except Exception as error:
        ray.get(ledger.fail.remote(f"{type(error).__name__}: {error}"[:500]))
        raise


@contextmanager
def _asked_to_stop(ledger: ActorHandle) -> Iterator[Callable[[], bool]]:
    """Whether the command was asked to stop; the first worker looks every second."""
    asked, over = threading.Event(), threading.Event()

    def look() -> None:
        while not over.wait(1.0) and not asked.is_set():
            with suppress(RayError):
                if ray.get(ledger.is_stopping.remote()):
                    asked.set()

    if world.rank() == 0:
        threading.Thread(target=look, name="stops", daemon=True).start()
    try:
        yield asked.is_set
    finally:
        over.set()
