"""Two workers on Ray Train whose command, Ray or worker is killed: losses and weights of a run never disturbed.

Each loss is compared bit by bit: gloo's sum of two is the same in either order.
"""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from chaos import victims
from conftest import LONG
from support.finetunes import Command, config_file, marker, short_folder, start

from m2f_batch.demo.dataset import write_dataset

pytestmark = LONG

STEPS, EVERY = 48, 3  # steps in all; between checkpoints
STEP_SECONDS = 0.1  # or less
KILLED = range(3, 13)  # steps at which the command is killed
WORKER_KILLED = range(24, 34)  # far enough from the first and from the end
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
GONE_SECONDS = 60.0


@dataclass
class Life:
    """What became of one OUTPUT: two commands, one of them killed, and who worked for the other one."""

    output: Path
    killed: Command
    last: Command
    workers: list[int]
    killed_worker: int
    workers_after: list[int]


def wait_for_death(folder: Path) -> None:
    """Nothing may stay behind but two agents of Ray: they look for its dead GCS for a minute before they end."""
    end = time.monotonic() + GONE_SECONDS
    while left := [one for one in victims.processes_of(folder) if one.title not in AGENTS]:
        assert time.monotonic() < end, left
        time.sleep(0.2)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def config(folder: Path) -> Path:
    """Shares of 3 and 2 images; dropout, batch norms that learn and averaged weights are part of what goes on."""
    write_dataset(folder / "dataset", train=10, val=4)
    settings = {"steps": STEPS, "batch_size": 5, "workers": 2, "checkpoint_every": EVERY, "evaluate_every": STEPS // 2}
    return config_file(folder / "dataset", folder, **settings)


@pytest.fixture(scope="module")
def undisturbed(config: Path, folder: Path) -> Path:
    command = start(config, folder / "undisturbed", folder / "0")
    assert command.process.wait(300) == 0, command.said()
    assert "resume" not in command.said()
    wait_for_death(command.folder)
    return folder / "undisturbed"


@pytest.fixture(scope="module")
def disturbed(config: Path, folder: Path) -> Life:
    """Killed, with its Ray or alone; given again, one of its workers killed; left to its end."""
    seed = int(os.environ.get("SEED", time.time_ns() % 1_000_000))
    chosen, output = random.Random(seed), folder / "disturbed"
    with_ray = chosen.random() < 0.5
    first = start(config, output, folder / "1")
    wait_for_step(first, output, chosen, KILLED)
    print(f"SEED={seed}: the command is killed {'with its Ray' if with_ray else 'alone'} after step {reached(output)}")
    if with_ray:
        victims.kill_all(first.folder)
    first.process.kill()
    first.process.wait()
    wait_for_death(first.folder)
    assert reached(output) < WORKER_KILLED[0], "its workers went on for long"

    second = start(config, output, folder / "2")
    wait_for_step(second, output, chosen, WORKER_KILLED)
    workers = second.workers()
    victim = chosen.choice(workers)
    assert victim.signal(signal.SIGKILL)
    print(f"SEED={seed}: worker {workers.index(victim)} is killed after step {reached(output)}")
    old = {worker.pid for worker in workers}
    second.wait_until(lambda: len({worker.pid for worker in second.workers()} - old) == 2)
    after = [worker.pid for worker in second.workers()]
    assert not (output / "model.safetensors").exists()
    assert second.process.wait(300) == 0, second.said()
    assert "(raylet)" not in second.said() and "\x1b" not in second.said(), "Ray's own words are in its log"
    assert "again   a worker died (killed from outside, or out of memory); all go on from step" in second.said()
    wait_for_death(second.folder)
    return Life(output, first, second, sorted(old), victim.pid, after)


def wait_for_step(command: Command, output: Path, chosen: random.Random, steps: range) -> None:
    """Until a checkpoint of a step in ``steps``, and a moment longer: not always just after one."""
    step = chosen.choice(steps)
    command.wait_until(lambda: reached(output) >= step)
    time.sleep(chosen.uniform(0, EVERY * STEP_SECONDS))


def reached(output: Path) -> int:
    """The step of the newest whole checkpoint."""
    return max((step for step in range(0, STEPS + 1, EVERY) if marker(output, step).exists()), default=0)


def lines(output: Path) -> list[dict[str, Any]]:
    """All that metrics.jsonl says but the times."""
    told = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "time"} for line in told]


def same(one: Any, other: Any) -> bool:
    """Whether two trees of tensors and plain values are equal, bit by bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def resumed(command: Command) -> list[int]:
    """The steps from which workers went on."""
    return [int(line.split()[2]) for line in command.said().splitlines() if line.startswith("resume")]


def test_each_death_happened_and_was_survived(disturbed: Life):
    assert disturbed.killed.process.returncode == -signal.SIGKILL
    assert resumed(disturbed.killed) == []
    before, after = resumed(disturbed.last)  # the same command: before and after its worker's death
    assert 0 < before < after < STEPS
    assert len(disturbed.workers) == 2
    assert disturbed.killed_worker in disturbed.workers
    assert disturbed.killed_worker not in disturbed.workers_after
    assert json.loads((disturbed.output / "finetune.json").read_text())["attempts"] == 2
    assert disturbed.last.said().splitlines()[-1].startswith("done ")


def test_losses_norms_and_metrics_are_those_of_a_run_never_disturbed(disturbed: Life, undisturbed: Path):
    steps = [line["step"] for line in lines(undisturbed) if line["kind"] == "train"]
    assert steps == [*range(1, STEPS + 1)]
    assert lines(disturbed.output) == lines(undisturbed)


def test_the_state_in_the_end_is_that_of_a_run_never_disturbed(disturbed: Life, undisturbed: Path):
    state, expected = (
        torch.load(marker(output, STEPS).with_name("state.pt"), weights_only=True)
        for output in (disturbed.output, undisturbed)
    )
    assert same(state, expected)
    tuned, wanted = ((output / "model.safetensors").read_bytes() for output in (disturbed.output, undisturbed))
    assert tuned == wanted
