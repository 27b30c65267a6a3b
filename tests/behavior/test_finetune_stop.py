"""Ctrl-C and SIGTERM: the step is finished, a checkpoint written, and the same command goes on from it."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import LONG
from support.finetunes import config_file, losses, marker, short_folder, start

from m2f_batch.demo.dataset import write_dataset

STEPS = 1000  # a line each, and no checkpoint before the last
SECONDS = 120.0


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(folder, train=8, val=2)
    return folder


@pytest.fixture
def short() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


# alone, and on Ray, which takes both signals for itself
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 1), pytest.param(signal.SIGINT, 2, marks=LONG)])
def test_a_stop_keeps_every_step(number: signal.Signals, workers: int, dataset: Path, tmp_path: Path, short: Path):
    settings = {"steps": STEPS, "evaluate_every": STEPS, "checkpoint_every": STEPS, "workers": workers}
    config, output = config_file(dataset, tmp_path, **settings), tmp_path / "tuned"
    command = start(config, output, short / "1")
    command.wait_until(lambda: "in the first step" in command.said())
    command.process.send_signal(number)
    assert command.process.wait(SECONDS) == 130, command.said()
    assert "Traceback" not in command.said()
    (step,) = (int(path.name) for path in (output / "checkpoints").iterdir() if marker(output, int(path.name)).exists())
    assert 0 < step < STEPS
    assert f"goes on from step {step} of {STEPS}" in command.said()
    assert [at for at, _ in losses(output)] == [*range(1, step + 1)]

    again = start(config, output, short / "2")
    again.wait_until(lambda: "resume" in again.said())
    again.process.kill()
    again.process.wait()
    assert re.findall(r"resume +step (\d+) of", again.said()) == [str(step)]
