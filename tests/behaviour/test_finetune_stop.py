"""Ctrl-C and SIGTERM: the step is finished, a checkpoint written, and the same command goes on from it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos import victims
from finetunes import arguments, config_file, losses, marker, wait_until

from m2f_batch.demo.dataset import write_dataset

STEPS = 100_000  # it never gets there by itself, nor to a checkpoint of its own
SECONDS = 120.0


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(folder, train=8, val=2)
    return folder


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name, for Ray's sockets; nothing that was started below it outlives the test."""
    folder = Path(tempfile.mkdtemp(prefix="m2f-"))
    yield folder
    while victims.kill_all(folder):
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


# alone, and on Ray, which takes both signals for itself
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_a_stop_keeps_every_step(number: signal.Signals, workers: int, dataset: Path, tmp_path: Path, short: Path):
    settings = {"steps": STEPS, "evaluate_every": STEPS, "checkpoint_every": STEPS, "workers": workers}
    config, output = config_file(dataset, tmp_path, **settings), tmp_path / "tuned"
    process, said = start(config, output, short / "1")
    wait_until(lambda: "all weights start at random" in said.read_text(), process, SECONDS, said.read_text)
    time.sleep(5)  # some steps
    process.send_signal(number)
    assert process.wait(SECONDS) == 130, said.read_text()
    assert "Traceback" not in said.read_text()
    (step,) = (int(path.name) for path in (output / "checkpoints").iterdir() if marker(output, int(path.name)).exists())
    assert 0 < step < STEPS
    assert [at for at, _ in losses(output)] == [*range(STEPS // 1000, step + 1, STEPS // 1000)]

    process, said = start(config, output, short / "2")
    wait_until(lambda: "resume" in said.read_text(), process, SECONDS, said.read_text)
    process.kill()
    process.wait()
    assert re.findall(r"resume +step (\d+) of", said.read_text()) == [str(step)]


def start(config: Path, output: Path, folder: Path) -> tuple["subprocess.Popen[bytes]", Path]:
    folder.mkdir()
    said = folder / "said"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with said.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "m2f_batch.cli", *arguments(config, output)],
            env=kept | {"RAY_TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    return process, said
