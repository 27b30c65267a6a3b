"""Measures in one command what needs a GPU: the whole job, the forward pass, and bf16 against fp32.

    python -m benchmarks.parts.gpu [--quick] [--images 2000] [--scenes 200]

Without CUDA the same runs in small on the CPU, and the result says "not measured on GPU".
"""

import statistics
import sys
from typing import Any

import torch

from benchmarks.lib.agreement import overlaps
from benchmarks.lib.models import random_model
from benchmarks.lib.timing import PROJECT, Rounds, parser, publish, say, table
from benchmarks.parts.forward import measure as measure_forward
from benchmarks.parts.job import NOTE as JOB_NOTE
from benchmarks.parts.job import Size
from benchmarks.parts.job import measure as measure_job
from m2f_batch.config.segment import Precision
from m2f_batch.demo.scenes import VAL_SEED, draw_scene
from m2f_batch.records import Segment
from m2f_batch.vision.segmenter import Segmenter

MODEL = PROJECT / "m2f_batch" / "demo" / "model"
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
MATCHED = 0.5  # least IoU of two segments of one class that are the same object
THREADS = 2
NOT_MEASURED = "**not measured on GPU**: no CUDA device here; the same script ran in small on the CPU."
PRECISION_NOTE = """Demo model on unseen scenes; TF32 is off in fp32. Two segments match when their class is the same
and their IoU is above one half; *unmatched* is the share of both runs' segments without a match."""


def compare_precisions(device: str, scenes: int) -> list[dict[str, Any]]:
    """bf16 against fp32 on the demo model, a line per task."""
    images = [draw_scene(VAL_SEED + number).image for number in range(scenes)]
    lines = []
    for task in ("instance", "panoptic", "semantic"):
        runs = [Segmenter.from_pretrained(str(MODEL), task=task, device=device, precision=p) for p in PRECISIONS]
        full, half = (segmenter(images) for segmenter in runs)
        matched, unmatched = match(half, full)
        lines.append(
            {
                "task": task,
                "scenes": scenes,
                "segments, fp32": sum(map(len, full)),
                "matched": len(matched),
                "median IoU": f"{statistics.median(matched):.4f}" if matched else "",
                "lowest IoU": f"{min(matched):.4f}" if matched else "",
                "unmatched": f"{unmatched:.2%}",
            }
        )
        say(", ".join(f"{name} {value}" for name, value in lines[-1].items()))
    return lines


def match(found: list[list[Segment]], wanted: list[list[Segment]]) -> tuple[list[float], float]:
    """IoU of the segments that match, and the share of both runs' segments that do not."""
    there = [iou for a, b in zip(found, wanted, strict=True) for iou in overlaps(a, b)]
    back = [iou for a, b in zip(found, wanted, strict=True) for iou in overlaps(b, a)]
    lonely = sum(iou <= MATCHED for iou in there + back)
    return [iou for iou in there if iou > MATCHED], lonely / max(1, len(there) + len(back))


def main() -> int:
    """Measure, print and write the tables."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=2000)
    options.add_argument("--scenes", type=int, default=200)
    chosen = options.parse_args()
    torch.set_num_threads(THREADS)
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    size, scenes, rounds, canvas = Size(chosen.images, 200, 512, 3), chosen.scenes, Rounds(9, 15), (512, 512)
    if chosen.quick or not on_gpu:
        size, scenes, rounds, canvas = Size(12, 4, 256, 1), min(scenes, 8), Rounds(2, 2), (256, 256)
    jobs, said = [], []
    for precision in PRECISIONS:
        lines, words = measure_job(size, device, precision)
        jobs += lines
        said += words
    with random_model({"height": canvas[0], "width": canvas[1]}) as directory:
        forward = measure_forward(directory, canvas, rounds, torch.device(device), False)
    parts = [] if on_gpu else [NOT_MEASURED]
    parts += [
        f"Whole job: Swin-T, random weights, {size.edge}x{size.edge}; TF32 is off for all.",
        table(jobs),
        *said,
        JOB_NOTE,
    ]
    parts += ["## Forward, fp32, batch of 1", table([forward])]
    parts += ["## bf16 against fp32", table(compare_precisions(device, scenes)), PRECISION_NOTE]
    name = "gpu" if on_gpu else "gpu-script-on-cpu"
    publish(name, "GPU", parts, threads=THREADS, quick=chosen.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
