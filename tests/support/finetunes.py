"""A small training as a user types it: its config file, its command, and what it tells in OUTPUT."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos import victims
from support.ray_start import OF_TESTS

STEPS = 10
DECODERS = {
    "hidden_dim": 32,
    "feature_size": 32,
    "mask_feature_size": 32,
    "encoder_feedforward_dim": 64,
    "dim_feedforward": 64,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "train_num_points": 256,
}
SMALL = DECODERS | {
    "num_queries": 16,
    "dropout": 0.1,
    "backbone_config": {
        "model_type": "resnet",
        "embedding_size": 16,
        "hidden_sizes": [16, 32, 48, 64],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
    },
}


def config_file(dataset: Path, folder: Path, name: str = "config", **train: Any) -> Path:
    """The same small training for all tests, with other settings of ``train``."""
    data: dict[str, Any] = {"format": "coco-panoptic"}
    for side in ("train", "val"):
        data |= {side: str(dataset / f"{side}.json")}
        data |= {f"{side}_{kind}": str(dataset / side / kind) for kind in ("images", "masks")}
    settings = {"steps": STEPS, "batch_size": 4, "learning_rate": 1e-3, "ema": 0.9, "deterministic": True}
    settings |= {"evaluate_every": 5, "checkpoint_every": 2, **train}
    tree = {
        "data": data,
        "model": {"config": SMALL},
        "augment": {"crop_size": 64, "scale": [0.5, 2.0], "color": 0.5},
        "train": settings,
        "compute": {"threads_per_worker": 1, "device": "cpu"},
    }
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(tree))  # JSON is YAML
    return file


def losses(output: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]


def validations(output: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "time"} for line in lines if line["kind"] != "train"]


def arguments(config: Path, output: Path, *more: str) -> list[str]:
    return ["finetune", "--config", str(config), "--set", f"output.uri={output}", *more]


def marker(output: Path, step: int) -> Path:
    return output / "checkpoints" / f"{step:09d}" / "checkpoint.json"


@dataclass
class Command:
    """``finetune`` in a process of its own, with a Ray below ``folder``."""

    process: "subprocess.Popen[bytes]"
    folder: Path

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def workers(self) -> list[victims.Process]:
        of_ray = (one for one in victims.processes_of(self.folder) if one.title.startswith("ray::RayTrainWorker"))
        return sorted(of_ray, key=lambda one: one.pid)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Until it is so, while the command lives."""
        wait_until(is_so, self.process, said=self.said)


def start(config: Path, output: Path, folder: Path) -> Command:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    folder.mkdir()
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "m2f_batch.cli", *arguments(config, output)],
            env=kept | OF_TESTS | {"RAY_TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    return Command(process, folder)


@contextmanager
def short_folder() -> Iterator[Path]:
    """One with a short name, for Ray puts sockets below it; nothing that was started below it outlives it."""
    folder = Path(tempfile.mkdtemp(prefix="m2f-"))
    try:
        yield folder
    finally:
        victims.kill_all(folder)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(
    is_so: Callable[[], bool],
    process: "subprocess.Popen[bytes]",
    seconds: float = 240.0,
    said: Callable[[], str] = lambda: "",
) -> None:
    """Until it is so, while the process lives; ``said`` tells what it wrote, for when it does not."""
    end = time.monotonic() + seconds
    while not is_so():
        assert process.poll() is None, f"it ended before it could be killed: {said()}"
        assert time.monotonic() < end, said()
        time.sleep(0.01)
