"""How a training on Ray ends: what each error means for the command, without a Ray."""

import platform
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import PROJECT
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.train.loop.memory import memory_explained
from m2f_batch.train.loop.validation import patience_used
from m2f_batch.train.workers import ray_train as worker
from m2f_batch.train.workers.ledger import Ledger


class Local:
    """An actor's methods, called here and now; ``raising`` instead, where it is given."""

    def __init__(self, ledger: Ledger, raising: list[Exception] | None = None) -> None:
        self.ledger, self.raising = ledger, raising or []

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Any:
            if self.raising:
                raise self.raising.pop(0) if len(self.raising) > 1 else self.raising[0]
            return getattr(self.ledger, name)(*arguments)

        return SimpleNamespace(remote=remote)


class Task(RayTaskError):
    """As Ray wraps what a task raised: its text is a traceback."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause

    def __str__(self) -> str:
        return "ray::_make() (pid=1)\n  File ..., line 1\n" + repr(self.cause)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(get_node_id=lambda: "node")
    fake = SimpleNamespace(get=lambda value: value, put=lambda value: value, get_runtime_context=lambda: context)
    monkeypatch.setattr(worker, "ray", fake)
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.01)


@pytest.mark.parametrize("error", [TransientError("503 (9 tries)"), RunError("a.png is broken"), UsageError("no")])
def test_our_own_errors_end_it_as_they_are(error: Exception):
    assert worker.end_of(error) is error
    assert worker.end_of(Task(error)) is error


def test_a_bug_in_a_task_ends_it_in_one_line_and_what_a_worker_dies_of_does_not():
    end = worker.end_of(Task(KeyError("segments")))
    assert isinstance(end, RunError) and str(end) == "KeyError: 'segments'"
    assert worker.end_of(RuntimeError("connection closed by peer")) is None


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("reads", [True, False], ids=["of checkpoints", "of finetune.json"])
def test_a_worker_that_cannot_read_output_ends_it(reads: bool):
    """Wrong keys on its node: to start it again would be the same for ever."""

    class Store:
        def list(self, uri: str) -> list[Any]:
            raise RunError("s3: access denied")

        def read(self, uri: str) -> bytes:
            if not reads:
                raise RunError("s3: access denied")
            return b'{"config": {"output": {"overwrite": false}}, "facts": {}, "attempts": 1}'

    place = SimpleNamespace(uri="s3://bucket/out", store=Store(), path=lambda name: f"s3://bucket/out/{name}")
    job, ledger, share = SimpleNamespace(train=None), Ledger(), worker.Share(1.0, 0.0, 1, 1)
    config = {"job": job, "place": place, "share": share, "ledger": Local(ledger)}
    with pytest.raises(RunError):
        worker._work(config)
    worker._work(config)  # started once more by Ray, whom only a return stops
    assert str(ledger.why_over()) == "s3: access denied"


@pytest.mark.usefixtures("no_ray")
@pytest.mark.timeout(60)
def test_the_command_ends_when_the_ledger_is_gone():
    over = threading.Event()
    trainer: Any = SimpleNamespace(fit=over.wait)  # Ray Train starts workers again and again
    try:
        with pytest.raises(RunError, match="the same command goes on from the last checkpoint"):
            worker._fit(trainer, Local(Ledger(), [ActorDiedError()]), print)
    finally:
        over.set()


@pytest.mark.usefixtures("no_ray")
def test_lines_are_passed_on_to_the_last_and_a_ledger_that_is_away_for_a_moment_is_asked_again():
    ledger, said = Ledger(), []

    def fit() -> None:
        ledger.say("first")
        while not said:
            pass
        ledger.say("last")

    away: Any = Local(ledger, [ActorUnavailableError("busy", None)])
    threading.Timer(0.1, away.raising.clear).start()
    worker._fit(SimpleNamespace(fit=fit), away, said.append)  # type: ignore[arg-type]  # a trainer that only fits
    assert said == ["first", "last"]


def test_what_training_dies_of_is_raised():
    with pytest.raises(ValueError, match="a bug"):
        worker._fit(SimpleNamespace(fit=lambda: int("a bug")), Local(Ledger()), print)  # type: ignore[arg-type]  # see above


def job_of(workers: int | tuple[int, int], **compute: Any) -> Any:
    compute = {"device": "auto", "gpus_per_worker": None, "data_cpus": None, "threads_per_worker": None} | compute
    train = SimpleNamespace(workers=workers, deterministic=False)
    config = SimpleNamespace(compute=SimpleNamespace(**compute), train=train)
    return SimpleNamespace(config=config)


@pytest.mark.parametrize("workers", [2, (1, 2)])
def test_two_workers_are_not_put_on_one_gpu(workers: int | tuple[int, int]):
    cluster = {"CPU": 8.0, "GPU": 2.0}
    with pytest.raises(UsageError, match=r"compute\.gpus_per_worker: 0\.5 with 2 workers is not allowed: NCCL"):
        worker.share_of(job_of(workers, gpus_per_worker=0.5), cluster)
    assert worker.share_of(job_of(workers), cluster).gpus == 1.0
    assert worker.share_of(job_of(1, gpus_per_worker=0.5), cluster).gpus == 0.5
    assert worker.share_of(job_of(workers, device="cpu", gpus_per_worker=0.5), cluster).gpus == 0.0


def test_out_of_memory_says_what_takes_less():
    takes_less = r"train\.accumulate.*train\.activation_checkpointing.*augment\.crop_size"
    with pytest.raises(RunError, match=takes_less), memory_explained():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def test_patience_begins_with_the_first_thing_found():
    used, best, told = 0, None, []
    for figure in (0.0, 0.0, -1.0, 0.0, 0.1, 0.1, 0.05, 0.2, 0.1):
        used = patience_used(figure, best, used)
        best = figure if best is None else max(best, figure)
        told.append(used)
    assert told == [0, 0, 0, 0, 0, 1, 2, 0, 1]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library, which is left as it is")
def test_large_blocks_are_not_given_back():
    code = """
import resource, torch
from m2f_batch.train.loop.memory import keep_memory
assert keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(1 << 25).add_(1)  # 128 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
found = [faults() for _ in range(12)]  # it settles after some
assert found[0] > 10_000 > 1000 > found[-1], found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
