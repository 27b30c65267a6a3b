"""Fine-tuning: our loop and the one of ``transformers``' instance-segmentation example, on the same photographs.

    python -m benchmarks.training.train [--peer PYTHON] [--quick]

Swin-T with random weights, batches of 4 at 384 x 384 in float32, one process of each at a time, in turns. PYTHON is one
that has ``accelerate`` and ``albumentations`` beside what this project needs. A step is timed from the end of the one
before, so that all that it waits for is in it; the first two are not counted.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from transformers import Mask2FormerImageProcessor

from benchmarks.lib.photos import DATA
from benchmarks.lib.processes import cpu_seconds, descendants
from benchmarks.lib.timing import PROJECT, parser, publish, ratio_of, say, table
from m2f_batch.config.finetune import StartConfig
from m2f_batch.datasets.dataset import Category
from m2f_batch.models.mask2former.training import TRAINING
from m2f_batch.train.start.build import build_model

THREADS, BATCH, SIZE, PHOTOS, WARM, NOTHING = 2, 4, 384, 24, 2, 255
NOTE = """Seconds per step are medians over all rounds; the ratio is of the two loops' mean step in the same round, with
the lowest and highest. *Busy* is the CPU time of the loop with all its helpers by wall time x cores."""


class Pace(NamedTuple):
    """Seconds of each counted step, and the share of the cores that was busy meanwhile."""

    steps: list[float]
    busy: float


def write_data(folder: Path, count: int) -> Path:
    """Photographs with label maps for the example, and the same objects as a COCO JSON, whose path is returned."""
    tree = json.loads((DATA / "coco_tiny/annotations/instances_train2017.json").read_text())
    labels = {category["id"]: label for label, category in enumerate(tree["categories"])}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in tree["images"]:
        objects = [a for a in tree["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        if not objects or len(images) == count:
            continue
        size = image["height"], image["width"]
        maps = np.full((*size, 3), NOTHING, np.uint8)
        for number, annotation in enumerate(sorted(objects, key=lambda a: -a["area"])[:100], 1):
            polygons = coco_mask.frPyObjects(annotation["segmentation"], *size)
            mask = coco_mask.decode(coco_mask.merge(polygons)).astype(bool)
            maps[mask] = (labels[annotation["category_id"]], number, 0)
            annotations.append({**annotation, "category_id": labels[annotation["category_id"]]})
        path = DATA / "coco_tiny/train2017" / image["file_name"]
        (folder / path.name).write_bytes(path.read_bytes())
        Image.fromarray(maps).save(folder / f"{path.stem}.png")
        images.append(image)
    categories = [{"id": label, "name": f"thing {label}"} for label in range(len(labels))]
    file = folder / "instances.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def write_model(folder: Path) -> Path:
    """A new Swin-T for 80 things, as both loops load it."""
    things = [Category(label, f"thing {label}", True) for label in range(80)]
    config = {"backbone_config": {"model_type": "swin", "drop_path_rate": 0.3}}
    build_model(StartConfig(config=config), things, "instance", TRAINING, seed=0).model.save_pretrained(folder)
    Mask2FormerImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return folder


def theirs(python: str, model: Path, data: Path, steps: int) -> Pace:
    """The example's loop."""
    words = [python, "-m", "benchmarks.training.example_loop", str(model), str(data), str(BATCH), str(SIZE), str(steps)]
    with _watched(words) as (process, seconds):
        assert process.stdout is not None
        ends = [float(line.split()[2]) for line in process.stdout if line.startswith("step ")]
    return _pace(ends, seconds)


def ours(model: Path, data: Path, steps: int) -> Pace:
    """``m2f-batch finetune``."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "tuned"
        words = [sys.executable, "-m", "m2f_batch.cli", "finetune", str(data / "instances.json"), str(output)]
        words += ["--model", str(model), "--task", "instance"]
        settings = {"data.train_images": data, "augment.crop_size": SIZE, "augment.scale": "[1.0, 1.0]"}
        settings |= {"augment.flip": 0.5, "augment.color": 0.5, "train.learning_rate": "5e-5"}
        settings |= {"train.steps": steps, "train.batch_size": BATCH, "train.checkpoint_every": steps}
        words += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        with _watched(words) as (process, seconds):
            process.communicate()
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return _pace([line["time"] for line in lines if line["kind"] == "train"], seconds)


@contextmanager
def _watched(words: Sequence[str]) -> Any:
    """A process, and (time, CPU seconds of it and all below it) as it runs. Raises CalledProcessError."""
    seconds: list[tuple[float, float]] = []
    process = subprocess.Popen(words, cwd=PROJECT, stdout=subprocess.PIPE, text=True)

    def watch() -> None:
        while process.poll() is None:
            with suppress(OSError, IndexError):
                seconds.append((time.time(), sum(map(cpu_seconds, descendants(process.pid)))))
            time.sleep(0.2)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield process, seconds
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, words)
    thread.join()


def _pace(ends: Sequence[float], seconds: Sequence[tuple[float, float]]) -> Pace:
    counted = ends[WARM - 1 :]
    first, last = np.interp([counted[0], counted[-1]], *np.transpose(seconds))
    wall = counted[-1] - counted[0]
    return Pace([b - a for a, b in pairwise(counted)], float(last - first) / wall / (os.cpu_count() or 1))


def main() -> int:
    """Time both in turns, print and write the table."""
    options = parser(__doc__)
    options.add_argument("--peer", default=sys.executable, help="a Python with accelerate and albumentations")
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    steps, rounds = (4, 1) if chosen.quick else (8, chosen.rounds)
    paces: dict[str, list[Pace]] = {"ours": [], "the example's": []}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        data, model = Path(folder), write_model(Path(other))
        write_data(data, PHOTOS)
        for number in range(rounds):
            ways = [("ours", lambda: ours(model, data, steps))]
            ways.append(("the example's", lambda: theirs(chosen.peer, model, data, steps)))
            for name, way in ways[:: 1 if number % 2 else -1]:
                paces[name].append(way())
                say(f"{name}: {statistics.mean(paces[name][-1].steps):.2f} s per step, {paces[name][-1].busy:.0%} busy")
    means = {name: [statistics.mean(pace.steps) for pace in each] for name, each in paces.items()}
    lines = [
        {
            "loop": name,
            "s per step": f"{(middle := statistics.median(step for pace in each for step in pace.steps)):.2f}",
            "images/s": f"{BATCH / middle:.2f}",
            "CPU busy": f"{statistics.median(pace.busy for pace in each):.0%}",
            "the example's by this": str(ratio_of(means["the example's"], means[name])),
        }
        for name, each in paces.items()
    ]
    about = (
        f"Swin-T, random weights, float32, {PHOTOS} COCO photographs, batches of {BATCH} at {SIZE} x {SIZE}, "
        f"{rounds} rounds of {steps - WARM} counted steps."
    )
    publish("train", "Training", [about, table(lines), NOTE], threads=THREADS, quick=chosen.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
