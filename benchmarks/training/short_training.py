"""Compares defaults in a short training: ours, changed one by one, and a plain loop, from the same weights.

    python -m benchmarks.training.short_training DATA FOLDER [--steps 100] [--seeds 3] [--arms ...]

DATA holds ``coco128_panoptic_train`` (its 133 categories as seven) and ``dsb2018_nuclei`` (nucleus and background),
both learned as semantic: so few steps of so small a model reach nothing in 133 classes, or in instances. Every fourth
image validates. The start is the bundled demo model, which has seen drawn scenes only. The plain loop is that of
``transformers``' example: its own loss, its AdamW on all parameters, a linear schedule to 0, the whole image mirrored
half of the time. One training after another, seed by seed; FOLDER/results.jsonl keeps what is done, so that the same
command goes on, and the table is written when all is there.
"""

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from transformers import get_scheduler

from benchmarks.lib.timing import publish, say, table
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import load_config
from m2f_batch.demo.scenes import MODEL
from m2f_batch.train.command import finetune
from m2f_batch.train.data.batches import on_device
from m2f_batch.train.data.stream import Span, maker, threaded_stream
from m2f_batch.train.loop.validation import validate
from m2f_batch.train.output.tuned_model import save_model
from m2f_batch.train.start.build import build_model
from m2f_batch.train.start.job import plan_job
from m2f_batch.vision.masks.rle import encode_mask

CANVAS, BATCH, VAL_EVERY = 128, 4, 4
LARGEST = 2 * CANVAS  # pixels of an image's longest edge: what scale 2.0 asks for
SETS = ("coco128", "nuclei")
COARSE = ("person", "animal", "vehicle", "other thing", "sky", "ground and plants", "other stuff")
OUTDOOR = ("ground", "plant", "water", "solid")
FREE = {"train.backbone_multiplier": 1.0, "augment.scale": [1.0, 1.0]}
ARMS: dict[str, dict[str, Any] | None] = {
    "defaults": {},
    "backbone_multiplier 1": {"train.backbone_multiplier": 1.0},
    "scale [1, 1]": {"augment.scale": [1.0, 1.0]},
    "both": FREE,
    "both, batch norms trained": FREE | {"train.freeze_batch_norms": False},
    "both, cosine": FREE | {"train.schedule": "cosine"},
    "both, clip_norm null": FREE | {"train.clip_norm": None},
    "both, weight_decay 0.01": FREE | {"train.weight_decay": 0.01},
    "scale [0.5, 1.5]": {"augment.scale": [0.5, 1.5]},
    "plain loop": None,
}
FIRST = ("defaults", "backbone_multiplier 1", "scale [1, 1]", "both", "plain loop")


def main() -> int:
    """Prepare the data, train what is not done yet, write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="+", default=[*SETS], choices=[*SETS])
    parser.add_argument("--arms", nargs="+", default=[*FIRST], choices=[*ARMS])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name in options.sets:
        if not (options.folder / name / "val.json").exists():
            {"coco128": _coco128, "nuclei": _nuclei}[name](options.data, options.folder / name)
    file = options.folder / "results.jsonl"
    for seed in range(options.seeds):
        for name in options.sets:
            for arm in options.arms:
                key = {"set": name, "arm": arm, "seed": seed, "steps": options.steps, "rate": options.rate}
                if not any(key.items() <= line.items() for line in _lines(file)):
                    began = time.monotonic()
                    figures = _trained(options.folder, key)
                    line = key | {"figures": figures, "seconds": round(time.monotonic() - began, 1)}
                    with file.open("a") as results:
                        results.write(json.dumps(line) + "\n")
                    say(json.dumps(line))
    _publish(_lines(file), options.steps, options.rate)
    return 0


def _trained(folder: Path, key: Mapping[str, Any]) -> dict[str, float]:
    """The last validation's figures of one training."""
    name, changes = key["set"], ARMS[key["arm"]]
    output = folder / "tuned"
    shutil.rmtree(output, ignore_errors=True)
    settings = {
        "data.format": "coco",
        "data.train": str(folder / name / "train.json"),
        "data.val": str(folder / name / "val.json"),
        "model.uri": str(MODEL),
        "model.task": "semantic",
        "augment.crop_size": CANVAS,
        "train.steps": key["steps"],
        "train.batch_size": BATCH,
        "train.learning_rate": key["rate"],
        "train.seed": key["seed"],
        "train.evaluate_every": key["steps"],
        "compute.device": "cpu",
        "compute.threads_per_worker": 1,
        "compute.data_cpus": 1,
        "output.uri": str(output),
        "output.size": {"shortest_edge": CANVAS, "longest_edge": CANVAS},
    } | (FREE if changes is None else changes)
    config = load_config(
        FinetuneConfig,
        overrides=["model.config={train_num_points: 512}"],
        flags={k: v for k, v in settings.items() if v is not None},
    )
    if "train.clip_norm" in settings and settings["train.clip_norm"] is None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"clip_norm": None})})
    if changes is None:
        return _plain(config)
    finetune(config, say=say)
    last = _lines(output / "metrics.jsonl")[-1]
    return {name: value for name, value in last.items() if isinstance(value, float) and name != "time"}


def _plain(config: FinetuneConfig) -> dict[str, float]:
    """The figures of the example's loop, from the weights and on the images that ours begins with."""
    job = plan_job(config)
    seed, steps = config.train.seed, job.steps
    start = build_model(
        config.model, job.train.categories, job.task, job.training(), seed=seed, checkpoint=job.checkpoint()
    )
    model = start.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.train.learning_rate)
    schedule = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=steps)
    torch.manual_seed(seed)
    np.random.seed(seed)
    for (samples,) in threaded_stream(maker(job.train, job.recipe(start.label_ids)), Span(0, steps, BATCH, 1, 0, 1), 1):
        pixels, targets = on_device(samples, job.canvas_hw, job.plan, torch.device("cpu"), model.config.num_queries)
        masks, labels = [target.masks.float() for target in targets], [target.class_ids for target in targets]
        model(pixel_values=pixels, mask_labels=masks, class_labels=labels).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    directory = Path(config.output.uri)
    save_model(model.eval(), job.processor, directory)
    assert job.val is not None
    category_of = {label: index for index, label in enumerate(start.label_ids) if label >= 0}
    metrics = validate(directory, job.val, job.task, category_of, "cpu", 1, config.data.max_pixels)["metrics"]
    return {name: value for name, value in metrics.items() if value is not None}


def _coco128(data: Path, folder: Path) -> None:
    """Coarse classes, one annotation for each that an image has: the union of its segments."""
    source = data / "coco128_panoptic_train"
    tree = json.loads((source / "panoptic_train2017.json").read_text())
    of = {category["id"]: COARSE.index(_coarse(category)) for category in tree["categories"]}
    names = {image["id"]: image["file_name"] for image in tree["images"]}
    images = []
    for annotation in tree["annotations"]:
        parts = np.array(Image.open(source / "panoptic" / annotation["file_name"]).convert("RGB")).astype(np.int64)
        numbers = parts @ [1, 256, 65536]
        masks: dict[int, NDArray[np.bool_]] = {}
        for segment in annotation["segments_info"]:
            kind, mask = of[segment["category_id"]], numbers == segment["id"]
            masks[kind] = masks[kind] | mask if kind in masks else mask
        images.append((source / "images" / names[annotation["image_id"]], sorted(masks.items())))
    _write(folder, images, COARSE)


def _coarse(category: Mapping[str, Any]) -> str:
    kind = category["supercategory"]
    if kind in COARSE:
        return str(kind)
    return "other thing" if category["isthing"] else "ground and plants" if kind in OUTDOOR else "other stuff"


def _nuclei(data: Path, folder: Path) -> None:
    source = data / "dsb2018_nuclei"
    tree = json.loads((source / "instances_derived.json").read_text())
    masks = {image["id"]: np.zeros((image["height"], image["width"]), bool) for image in tree["images"]}
    for annotation in tree["annotations"]:
        masks[annotation["image_id"]] |= coco_mask.decode(annotation["segmentation"]).astype(bool)
    images = [
        (source / image["file_name"], [(0, masks[image["id"]]), (1, ~masks[image["id"]])]) for image in tree["images"]
    ]
    _write(folder, images, ["nucleus", "background"])


def _write(
    folder: Path, images: Sequence[tuple[Path, Sequence[tuple[int, NDArray[np.bool_]]]]], names: Sequence[str]
) -> None:
    """train.json and val.json, and beside them the images, no larger than training looks at them."""
    folder.mkdir(parents=True, exist_ok=True)
    splits: list[dict[str, Any]] = [
        {"images": [], "annotations": [], "categories": [{"id": i, "name": n} for i, n in enumerate(names, start=1)]}
        for _ in range(2)
    ]
    for number, (path, masks) in enumerate(images):
        picture = Image.open(path).convert("RGB")
        picture.thumbnail((LARGEST, LARGEST))
        picture.save(folder / f"{number}.png")
        tree = splits[number % VAL_EVERY == VAL_EVERY - 1]
        tree["images"].append(
            {"id": number, "file_name": f"{number}.png", "width": picture.width, "height": picture.height}
        )
        for kind, mask in masks:
            small = np.array(Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST))
            if small.any():
                code = encode_mask(small)
                segmentation = {"size": [*small.shape], "counts": code.counts}
                entry = {"id": len(tree["annotations"]) + 1, "image_id": number, "category_id": kind + 1, "iscrowd": 0}
                tree["annotations"].append(
                    entry | {"segmentation": segmentation, "area": code.area, "bbox": list(code.bbox)}
                )
    (folder / "train.json").write_text(json.dumps(splits[0]))
    (folder / "val.json").write_text(json.dumps(splits[1]))


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _publish(lines: Sequence[Mapping[str, Any]], steps: int, rate: float) -> None:
    rows = []
    for arm in ARMS:
        row = {"settings": arm}
        for name in SETS:
            ours, usual = (_figures(lines, name, which, steps, rate) for which in (arm, "defaults"))
            if ours:
                row[f"{name}, mIoU"] = f"{statistics.mean(ours):.3f} ({', '.join(f'{value:.3f}' for value in ours)})"
                gains = [f"{one - other:+.3f}" for one, other in zip(ours, usual, strict=False)]
                row[f"{name}, against defaults"] = "" if arm == "defaults" else ", ".join(gains)
        if len(row) > 1:
            rows.append(row)
    seconds = [line["seconds"] for line in lines]
    about = (
        f"`python -m benchmarks.training.short_training DATA FOLDER`: {steps} steps of {BATCH} images at {CANVAS} x "
        f"{CANVAS},\n"
        f"peak learning rate {rate:g}, from the bundled demo model (1.6 million weights, drawn scenes). The mean of\n"
        "the seeds and, in their order, each seed; then each seed's difference to the defaults with the same seed. A\n"
        f"training took {min(seconds):.0f} to {max(seconds):.0f} s: others used the cores too, which no figure feels."
    )
    publish("short-training", "Short trainings", [about, table(rows)], threads=1, quick=False)


def _figures(lines: Sequence[Mapping[str, Any]], name: str, arm: str, steps: int, rate: float) -> list[float]:
    """The figure of each seed, in the order of the seeds."""
    wanted = {"set": name, "arm": arm, "steps": steps, "rate": rate}
    return [line["figures"]["mIoU"] for line in lines if wanted.items() <= line.items()]


if __name__ == "__main__":
    sys.exit(main())
