"""Labels a folder of photographs in each of the ways that the whole-job part compares, and times them."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import AutoImageProcessor, pipeline

from benchmarks.lib.models import eager
from benchmarks.lib.peers import shipped_segments
from m2f_batch.config.segment import Precision, Task
from m2f_batch.models.loading import forward
from m2f_batch.records import Segment, segment_of
from m2f_batch.runs.directory import open_directory
from m2f_batch.vision.device.threads import pinned_threads
from m2f_batch.vision.masks.frame import Frame
from m2f_batch.vision.pixels.preprocess import Prepared, pixel_values
from m2f_batch.vision.postprocess import segments_of
from m2f_batch.vision.segmenter import Segmenter

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Setting(NamedTuple):
    """The settings that all ways share."""

    model: Path
    photos: list[Path]
    device: str
    precision: Precision
    task: Task
    threads: int
    batch_size: int


class Done(NamedTuple):
    """Images, seconds, what was found in each (by file name), and the seconds before the first forward pass."""

    images: int
    seconds: float
    found: dict[str, list[Segment]]
    startup: float = 0.0

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds


def whole_job(setting: Setting, folder: Path, output: Path, options: Sequence[str] = ()) -> Done:
    """Run ``m2f-batch segment`` as it is typed, with more ``options`` and one replica, because the others are one too.

    The seconds begin with the first unit of work (run.json: seconds and busy share of the forward pass give the time
    from its start to the last arrival) and end with the command.
    """
    command = [
        *(str(Path(sys.executable).with_name("m2f-batch")), "segment", str(folder), str(output)),
        *("--model", str(setting.model), "--task", setting.task),
        *("--set", f"model.precision={setting.precision}", "--set", f"compute.device={setting.device}"),
        *("--set", "compute.actors=1", "--set", f"compute.threads_per_actor={setting.threads}", *options),
    ]
    begun = time.time()
    done = subprocess.run(command, capture_output=True, text=True)
    ended = time.time()
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    run = open_directory(str(output))
    busy = run.read_info()["stages"]["forward"]
    last = max(path.stat().st_mtime for path in (output / "annotations").glob("*.parquet"))
    startup = last - busy["seconds"] / busy["busy"] - begun
    rows = [row for file in run.annotation_files() for row in run.read_annotations(file).to_pylist()]
    found = {
        Path(row["uri"]).name: [segment_of(entry, (row["height"], row["width"])) for entry in row["segments"]]
        for row in rows
    }
    return Done(len(rows), ended - begun - startup, found, startup)


def alone(segmenter: Segmenter, setting: Setting, names: Sequence[str], images: Sequence[Prepared]) -> Done:
    """Forward and post-processing one after the other, of images prepared in memory."""
    options = segmenter.labeling.postprocess
    found, begun = {}, time.perf_counter()
    for batch in _batches(list(zip(names, images, strict=True)), setting.batch_size):
        values = _values([image for _, image in batch], segmenter)
        prediction = forward(segmenter.model, values, setting.precision)
        for index, (name, image) in enumerate(batch):
            frame = Frame(image.views[0].canvas_hw, image.views[0].content_hw, image.output_hw)
            with pinned_threads(1):  # as the job does it; another number rounds the scores otherwise
                found[name] = segments_of(prediction.of_image(index), setting.task, frame, options)
    return Done(len(images), time.perf_counter() - begun, found)


def forward_alone(segmenter: Segmenter, setting: Setting, images: Sequence[Prepared]) -> Done:
    """Forward passes of pixel values that are on the device already."""
    batches = [_values(batch, segmenter) for batch in _batches(list(images), setting.batch_size)]
    _synchronize(setting.device)
    begun = time.perf_counter()
    for values in batches:
        forward(segmenter.model, values, setting.precision)
    _synchronize(setting.device)
    return Done(len(images), time.perf_counter() - begun, {})


def _values(images: Sequence[Prepared], segmenter: Segmenter) -> torch.Tensor:
    """Pixel values of images that are seen whole."""
    contents = [content for image in images for content in image.contents]
    return pixel_values(contents, images[0].views[0].canvas_hw, segmenter.labeling.preprocess, segmenter.device)


def ready_pipeline(setting: Setting) -> Any:
    """``transformers``' pipeline, loaded."""
    return pipeline(
        "image-segmentation", model=str(setting.model), device=setting.device, dtype=DTYPES[setting.precision]
    )


def run_pipeline(pipe: Any, setting: Setting, photos: Sequence[Path]) -> Done:
    """Run the pipeline as documented. It gives PIL masks, and nothing is encoded or written."""
    begun = time.perf_counter()
    for photo in photos:
        pipe(str(photo), subtask=setting.task, threshold=0.5)
    return Done(len(photos), time.perf_counter() - begun, {})


class Photos(Dataset[Any]):
    """Pixel values, the image's size and its place in the list."""

    def __init__(self, photos: Sequence[Path], processor: Any) -> None:
        self.photos, self.processor = photos, processor

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, tuple[int, int], int]:
        image = Image.open(self.photos[index]).convert("RGB")
        values = self.processor(image, return_tensors="pt")["pixel_values"][0]
        return values, (image.height, image.width), index


def run_loader(model: Any, setting: Setting, photos: Sequence[Path], output: Path) -> Done:
    """A loop of one's own: DataLoader, the model, its processor's post-processing, pycocotools, one JSON file."""
    processor = AutoImageProcessor.from_pretrained(setting.model, local_files_only=True)
    workers = min(8, max(1, (os.cpu_count() or 1) // 2))
    loader = DataLoader(Photos(photos, processor), setting.batch_size, num_workers=workers)
    dtype, found, begun = DTYPES[setting.precision], {}, time.perf_counter()
    for values, (heights, widths), indices in loader:
        with torch.inference_mode(), torch.autocast(setting.device, dtype, enabled=dtype != torch.float32):
            outputs = model(pixel_values=values.to(setting.device))
        classes, masks = outputs.class_queries_logits.float().cpu(), outputs.masks_queries_logits.float().cpu()
        for at, (height, width, index) in enumerate(zip(heights, widths, indices, strict=True)):
            one = SimpleNamespace(class_queries_logits=classes[at : at + 1], masks_queries_logits=masks[at : at + 1])
            found[photos[index].name] = shipped_segments(processor, one, setting.task, (int(height), int(width)), {})
    labels = {name: [[s.category_id, s.score, s.bbox, s.counts] for s in segments] for name, segments in found.items()}
    output.write_text(json.dumps(labels))
    return Done(len(photos), time.perf_counter() - begun, found)


def ready_loop(setting: Setting) -> Any:
    """The loop's model."""
    return eager(setting.model, setting.device)


def _batches(items: list[Any], size: int) -> list[list[Any]]:
    return [items[at * size : (at + 1) * size] for at in range(math.ceil(len(items) / size))]


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
