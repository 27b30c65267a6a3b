"""Trains on a cluster by Ray Train: so many workers, all started again where one is lost.

Each worker does what one process alone does (``training``). Ray places and connects them, and starts all again when one
dies or, with an elastic number of workers, when nodes come and go. They go on from the last checkpoint in OUTPUT, which
all of them must be able to read: with several nodes a bucket or a shared disk.
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from m2f_batch.config.finetune import check_device
from m2f_batch.config.segment import ComputeConfig
from m2f_batch.datasets.dataset import Dataset
from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.ray_session.session import connected
from m2f_batch.runs.held_folder import HeldFolder
from m2f_batch.signals import noticed_stops
from m2f_batch.train import distributed
from m2f_batch.train.data.ray_stream import ray_stream
from m2f_batch.train.data.samples import Recipe
from m2f_batch.train.data.stream import Span, Step
from m2f_batch.train.layout import complete
from m2f_batch.train.output.hold_output import check_seen
from m2f_batch.train.workers.interface import NodesNetwork
from m2f_batch.train.workers.ledger import Ledger

if TYPE_CHECKING:  # it loads transformers
    from m2f_batch.train.start.job import TrainJob

LEAST_CPU = 0.25  # of a worker, for Ray's books: what it computes with is ``threads_per_worker``
POLL_SECONDS = 1.0  # between looks at the workers' lines
TASK_CPUS = 0.5  # of a task that makes examples, so that there is room for one on the smallest machine


@dataclass(frozen=True)
class Share:
    """The share of a worker: Ray's CPUs and GPUs, threads, and tasks at once that make its examples."""

    cpus: float
    gpus: float
    threads: int
    tasks: int


@contextmanager
def cluster(job: "TrainJob", say: Callable[[str], None]) -> Iterator[Callable[[HeldFolder], None]]:
    """Connect to a Ray cluster, or a local Ray, and give the function that trains on it.

    Raises UsageError when it is too small. The function raises RunError when training cannot go on.
    """
    compute, workers = job.config.compute, job.config.train.workers
    with connected(ComputeConfig(address=compute.address, device=compute.device)):
        share = share_of(job, ray.cluster_resources())
        say(f"ray     {workers if isinstance(workers, int) else list(workers)} workers, each {share.threads} threads")
        yield lambda place: _train(job, share, place, say)


def _train(job: "TrainJob", share: Share, place: HeldFolder, say: Callable[[str], None]) -> None:
    # on the command's node if it has a slot, because without that node all is lost anyway, and the ledger has no copy
    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    ledger = ray.remote(Ledger).options(num_cpus=0, scheduling_strategy=node).remote()
    with TemporaryDirectory() as scratch:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"job": ray.put(job), "place": place, "share": share, "ledger": ledger},
            torch_config=NodesNetwork(),
            scaling_config=ScalingConfig(
                num_workers=job.config.train.workers,
                use_gpu=share.gpus > 0,
                resources_per_worker={"CPU": share.cpus} | ({"GPU": share.gpus} if share.gpus else {}),
                # GPUs of one node are the closest, while two workers on one node share its CPUs
                placement_strategy="PACK" if share.gpus else "SPREAD",
            ),
            run_config=RunConfig(name="m2f-batch", storage_path=scratch, failure_config=FailureConfig(max_failures=-1)),
        )
        with noticed_stops(lambda: bool(ray.get(ledger.stop.remote()))):
            _fit(trainer, ledger, say)
        if (error := _asked(ledger.why_over)) is not None:
            raise error


def _fit(trainer: TorchTrainer, ledger: ActorHandle, say: Callable[[str], None]) -> None:
    """Train, and say the lines of the first worker. Workers' own output stays in Ray's logs.

    Training runs in a thread, because in the main one Ray Train takes Ctrl-C for itself and ends the process as if all
    had gone well. Raises RunError when the ledger is gone, because workers would be started again for ever.
    """
    over: Future[None] = Future()

    def run() -> None:
        try:
            trainer.fit()
            over.set_result(None)
        except BaseException as error:  # noqa: BLE001  # raised below
            over.set_exception(error)

    threading.Thread(target=run, name="fit", daemon=True).start()
    try:
        while not wait([over], POLL_SECONDS).done:
            with suppress(RayError):  # it does not answer just now
                _pass_on(_asked(ledger.take), say)
    finally:
        with suppress(RayError, RunError):
            _pass_on(_asked(ledger.take), say)
    over.result()


def _pass_on(lines: Sequence[str], say: Callable[[str], None]) -> None:
    for line in lines:
        say(line)


def _asked(method: Any) -> Any:
    """Call a method of the ledger and return its answer. Raises RunError when the ledger is gone."""
    try:
        return ray.get(method.remote())
    except ActorDiedError:
        raise RunError(
            "Ray has lost the actor through which workers talk to this command; the same command goes on from the "
            "last checkpoint"
        ) from None


def share_of(job: "TrainJob", cluster: dict[str, Any]) -> Share:
    """Divide a cluster among workers, and leave CPUs to the tasks that make examples. Raises UsageError."""
    compute, workers = job.config.compute, job.config.train.workers
    least, most = (workers, workers) if isinstance(workers, int) else workers
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    device = compute.device if compute.device != "auto" else "cuda" if gpus else "cpu"
    per_worker = (compute.gpus_per_worker or 1.0) if device == "cuda" else 0.0
    if most > 1 and 0 < per_worker < 1:
        raise UsageError(
            f"{per_worker:g} with {most} workers is not allowed: NCCL connects no two on one GPU",
            field="compute.gpus_per_worker",
            allowed="1 or more, or train.workers=1",
        )
    if per_worker * least > gpus:
        raise UsageError(
            f"workers need {per_worker * least:g} GPUs; the cluster has {gpus:g}",
            field="train.workers",
            value=least,
        )
    check_device(job.config, device)
    present = max(least, min(most, int(gpus / per_worker) if per_worker else int(max(1.0, cpus))))
    data_cpus = float(compute.data_cpus or max(1.0, cpus - present if device == "cuda" else cpus / 2))
    held = (cpus - min(data_cpus, cpus - LEAST_CPU * present)) / present
    if held < LEAST_CPU * 0.99:
        raise UsageError(
            f"workers do not fit on {cpus:g} CPUs", field="train.workers", value=present, hint="give fewer"
        )
    threads = compute.threads_per_worker or max(1, math.floor(cpus / present))
    return Share(round(held, 3), per_worker, threads, max(1, int(data_cpus / TASK_CPUS / present)))


def _work(config: dict[str, Any]) -> None:
    """Train as one of the workers."""
    # takes seconds, and the command and Ray's controller, which load this module too, do not need it
    from m2f_batch.train.training import Means, Stopped, train
    from m2f_batch.vision.device.gpu import check_gpu

    job: TrainJob = ray.get(config["job"])
    place: HeldFolder = config["place"]
    share: Share = config["share"]
    ledger = config["ledger"]
    dataset: ray.ObjectRef[Dataset] = ray.put(job.train)

    def stream(recipe: Recipe, span: Span) -> Iterator[Step]:
        return ray_stream(dataset, recipe, span, share.tasks, TASK_CPUS)

    def say(line: str) -> None:
        if distributed.rank() == 0:
            ledger.say.remote(line)

    if ray.get(ledger.why_over.remote()) is not None:
        return  # before anything that may fail again, because only workers that return keep Ray from starting them anew
    try:
        check_seen(place)
        if share.gpus:
            check_gpu(get_device())  # before workers talk to each other by the GPU
        if not _has_begun(place, ledger):
            return
        with _asked_to_stop(ledger) as is_stopping:
            train(job, place, Means(stream, get_device(), share.threads, say, is_stopping))
    except Stopped:
        ray.get(ledger.end.remote(RunError("stopped")))  # where Ray starts the workers again, they end at once
        raise
    except Exception as error:
        if (end := end_of(error)) is not None:
            ray.get(ledger.end.remote(end))
        else:
            ray.get(ledger.fail.remote(f"{type(error).__name__}: {error}"[:500]))
        raise


def _has_begun(place: HeldFolder, ledger: ActorHandle) -> bool:
    """Tell the ledger that all workers are there, and return on all of them whether there is something to do."""
    nodes = distributed.gathered(ray.get_runtime_context().get_node_id())
    if distributed.rank() == 0:
        ray.get(ledger.begin.remote(max(complete(place), default=0), nodes))
    distributed.gathered(None)
    return ray.get(ledger.why_over.remote()) is None


def end_of(error: Exception) -> Exception | None:
    """Return what the command raises for an error that any worker would repeat, None where a new start may help."""
    if not isinstance(error, RayTaskError):
        return error if isinstance(error, UsageError | RunError | TransientError) else None
    cause = error.cause  # the error of a task that makes examples
    if isinstance(cause, UsageError | RunError | TransientError):
        return cause
    return RunError(f"{type(cause).__name__}: {cause}")


@contextmanager
def _asked_to_stop(ledger: ActorHandle) -> Iterator[Callable[[], bool]]:
    """Give a function that says whether the command was asked to stop. Rank 0 looks every second."""
    asked, over = threading.Event(), threading.Event()

    def look() -> None:
        while not over.wait(1.0) and not asked.is_set():
            with suppress(RayError):
                if ray.get(ledger.is_stopping.remote()):
                    asked.set()

    if distributed.rank() == 0:
        threading.Thread(target=look, name="stops", daemon=True).start()
    try:
        yield asked.is_set
    finally:
        over.set()
