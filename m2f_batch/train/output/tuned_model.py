"""Writes the tuned model as a Hugging Face directory with its card, and the examples of a step that went wrong."""

import io
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from m2f_batch.evaluation.evaluator import MAIN
from m2f_batch.models.from_tensors import quiet
from m2f_batch.runs.held_folder import HeldFolder, json_bytes
from m2f_batch.storage.retries import retry_write
from m2f_batch.train import distributed
from m2f_batch.train.layout import MODEL_FILES, NONFINITE
from m2f_batch.train.loop.step import NonFiniteStep
from m2f_batch.train.loop.validation import Best
from m2f_batch.train.start.job import TrainJob


def save_model(model: Any, processor: Mapping[str, Any], directory: Path) -> None:
    """Write weights, config.json and preprocessor_config.json to a local directory, for ``from_pretrained``."""
    with quiet():
        model.save_pretrained(directory, max_shard_size="100GB")  # one file
    (directory / "preprocessor_config.json").write_bytes(json_bytes(dict(processor)))


def save_everywhere(model: Any, processor: Mapping[str, Any], directory: Path) -> None:
    """Do ``save_model`` on every rank with a directory each, because ``transformers`` saves on rank 0 only."""
    files: dict[str, bytes] = {}
    if distributed.rank() == 0:
        save_model(model, processor, directory)
        if distributed.size() > 1:
            files = {file.name: file.read_bytes() for file in directory.iterdir()}
    files = distributed.from_first_rank(files)
    if distributed.rank() != 0:
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (directory / name).write_bytes(data)


def write_model(
    place: HeldFolder, directory: Path, job: TrainJob, step: int, best: Best | None, notes: Sequence[str]
) -> None:
    """Write the files of ``directory`` and a model card to OUTPUT. Raises Fenced when another run has taken over."""
    (directory / "README.md").write_text(model_card(job, step, best, notes), encoding="utf-8")
    for name in MODEL_FILES:
        retry_write(place.check_fence)
        retry_write(partial(place.store.upload, directory / name, place.path(name)))


def model_card(job: TrainJob, step: int, best: Best | None, notes: Sequence[str]) -> str:
    """Return README.md of the tuned model: data, recipe, metrics, and the license of the model it started from."""
    config, train = job.config, job.config.train
    kept = step if best is None else best.step
    start = config.model.uri or config.model.backbone or "random weights"
    lines = [
        "---",
        f"license: {job.license or 'other'}",
        "library_name: transformers",
        "pipeline_tag: image-segmentation",
        f"tags: [{job.model_type}, image-segmentation]",
        *([f"base_model: {config.model.uri}"] if config.model.uri else []),
        "---",
        f"# {job.family.name} for {job.task} segmentation of {len(job.train.categories)} categories",
        "",
        f"Started from {start}; {'; '.join(notes)}. Trained by m2f-batch.",
        "",
        "## Data",
        "",
        f"{job.train.table.num_rows} images of `{config.data.train}` ({config.data.format})"
        + (f", validated on {job.val.table.num_rows} images" if job.val is not None else ", no validation")
        + ".",
        "",
        "Categories: " + ", ".join(category.name for category in job.train.categories),
        "",
        "## Recipe",
        "",
        f"{kept} of {job.steps} steps of {train.batch_size} images on a canvas of "
        f"{job.canvas_hw[1]} x {job.canvas_hw[0]} pixels, AdamW at {train.learning_rate:g}, {train.precision}, "
        f"seed {train.seed}.",
        "",
        "```json",
        json.dumps({name: config.model_dump(mode="json")[name] for name in ("model", "augment", "train")}, indent=2),
        "```",
        *(_metrics(job, best) if best is not None else []),
    ]
    return "\n".join(lines) + "\n"


def _metrics(job: TrainJob, best: Best) -> list[str]:
    figures = {name: value for name, value in best.metrics.items() if value is not None}
    main = MAIN[job.task]
    rows = [f"| {entry['name']} | {entry[main]:.3f} |" for entry in best.classes if entry.get(main) is not None]
    return [
        "",
        "## Metrics",
        "",
        f"After step {best.step}, on the validation images, by `m2f-batch evaluate`'s code.",
        "",
        "| " + " | ".join(figures) + " |",
        "| " + " | ".join("---" for _ in figures) + " |",
        "| " + " | ".join(f"{value:.3f}" for value in figures.values()) + " |",
        *(["", f"| category | {main} |", "| --- | --- |", *rows] if rows else []),
    ]


def write_nonfinite(place: HeldFolder, step: int, error: NonFiniteStep) -> None:
    """Keep the examples of this process in a step whose loss is not finite: nonfinite/*.pt."""
    if not error.samples:
        return
    batch = [
        {"image_id": s.image_id, "uri": s.uri, "position": s.position, "image": torch.from_numpy(s.image.copy())}
        | {"labels": torch.from_numpy(s.labels), "counts": list(s.counts)}
        for s in error.samples
    ]
    data = io.BytesIO()
    torch.save({"step": step, "batch": batch}, data)
    name = f"{NONFINITE}/{step:09d}-{distributed.rank()}.pt"
    retry_write(lambda: place.store.write(place.path(name), data.getvalue()))
