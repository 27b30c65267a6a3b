"""Measures the CPU seconds that one image takes by its megapixels: decoding and resizing, and post-processing.

    python -m benchmarks.parts.megapixels [--quick]

These are the parts of a job that grow with the size of the photograph. The forward pass sees the resized image.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.lib.photos import where_from
from benchmarks.lib.timing import parser, publish, say, show_seconds, table
from benchmarks.lib.work import make_work
from benchmarks.parts.postprocess import ours as post_processed
from benchmarks.parts.preprocess import SETTINGS, jpegs
from m2f_batch.config.section import MAX_PIXELS
from m2f_batch.config.segment import Task
from m2f_batch.models.processor import plan_from_processor
from m2f_batch.vision.pixels.preprocess import prepare_image

SIZES = ((480, 640), (866, 1154), (1500, 2000), (3000, 4000))  # 0.3, 1, 3 and 12 megapixels, 4:3
CLASSES: dict[Task, int] = {"instance": 80, "panoptic": 133, "semantic": 150}
KEPT = 20  # segments of an image
NOTE = """CPU seconds of one image on one thread, medians. They do not grow with what else the machine does, as seconds
by the clock do. The JPEGs are photographs of COCO, enlarged; those of a camera hold more detail, which takes longer to
decode. Post-processing: 20 segments, from logits at a quarter of the canvas of the paper's test size."""


def cpu_seconds(act: Callable[[], Any], times: int) -> list[float]:
    """The CPU seconds of this process for each of so many calls."""
    act()  # what a first call costs is not what is asked
    seconds = []
    for _ in range(times):
        begun = time.process_time()
        act()
        seconds.append(time.process_time() - begun)
    return seconds


def decoded(files: list[bytes], setting: dict[str, int]) -> None:
    """Decode and resize, as a task of a job does."""
    plan = plan_from_processor({"size": setting})
    for data in files:
        prepare_image(data, plan, MAX_PIXELS)


def measure(output: tuple[int, int], images: int, times: int) -> dict[str, Any]:
    """One line of the table."""
    files = jpegs(output, images)
    line: dict[str, Any] = {"megapixels": f"{output[0] * output[1] / 1e6:.1f}", "size": f"{output[0]}x{output[1]}"}
    line["bytes"] = f"{statistics.median(map(len, files)) / 1e6:.2f} MB"
    for setting, name in zip(SETTINGS, ("to 384x384", "to 800 / 1333"), strict=True):
        seconds = cpu_seconds(partial(decoded, files, setting), times)
        line[f"decode, {name}"] = show_seconds([each / images for each in seconds])
    for task, classes in CLASSES.items():
        work = make_work(task, output, KEPT, classes=classes, size=None)
        line[f"postprocess, {task}"] = show_seconds(cpu_seconds(partial(post_processed, work), times))
    say(", ".join(f"{name} {value}" for name, value in line.items()))
    return line


def main() -> int:
    """Measure, print and write the table."""
    quick = parser(__doc__).parse_args().quick
    torch.set_num_threads(1)
    lines = [measure(size, 2 if quick else 8, 2 if quick else 5) for size in (SIZES[:2] if quick else SIZES)]
    parts = [f"From {where_from()}.", table(lines), NOTE]
    publish("megapixels", "CPU seconds by megapixels", parts, threads=1, quick=quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
