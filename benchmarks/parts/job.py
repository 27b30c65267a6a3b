"""The whole job, images/s: ``m2f-batch segment`` as it is typed, beside what others would do with the same model.

    python -m benchmarks.parts.job [--quick] [--images 200] [--peer-images 40] [--size 512] [--device cuda] \
        [--precision bf16]

Swin-T with random weights, instances. In the same run the job's rows are compared with those of one process.
"""

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.lib.agreement import overlaps
from benchmarks.lib.models import random_model
from benchmarks.lib.photos import where_from, write_photographs
from benchmarks.lib.timing import parser, publish, ratio_of, say, table
from benchmarks.parts.whole import (
    Done,
    Setting,
    alone,
    forward_alone,
    ready_loop,
    ready_pipeline,
    run_loader,
    run_pipeline,
    whole_job,
)
from m2f_batch.config.section import MAX_PIXELS
from m2f_batch.config.segment import Precision
from m2f_batch.records import Segment
from m2f_batch.vision.pixels.preprocess import Prepared, prepare_image
from m2f_batch.vision.segmenter import Segmenter

THREADS, CUDA_BATCH = 2, 16
JOB, BOTH, FORWARD = "whole job after start-up", "forward + post-processing alone", "forward alone"
PIPELINE, LOOP = "transformers pipeline", "transformers, DataLoader and pycocotools"
NOTE = """*whole job* is the command from its first unit of work to its exit, so verifying and shutting down count; what
comes before is start-up. *alone* is one process with images prepared in memory, half of them before the job and half
after it. The pipeline makes PIL masks and writes nothing; the loop post-processes as transformers does (masks of
a 384x384 square), encodes with pycocotools and writes JSON; both are loaded before the clock starts. The last column is
images/s of the whole job by images/s of the line: median over repetitions, lowest and highest."""


class Size(NamedTuple):
    """The amount of work."""

    images: int
    peer_images: int
    edge: int
    repetitions: int


def measure(size: Size, device: str, precision: Precision) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines of the table, and what else is to be said. Raises AssertionError when rows differ on CPU."""
    edges = {"height": size.edge, "width": size.edge}
    with random_model(edges) as model, tempfile.TemporaryDirectory(prefix="m2f-bench-") as scratch:
        folder = write_photographs(Path(scratch) / "photos", size.images)
        photos = sorted(folder.iterdir())
        setting = Setting(model, photos, device, precision, "instance", THREADS, 1 if device == "cpu" else CUDA_BATCH)
        rounds = [_round(setting, folder, Path(scratch) / f"run-{n}", size) for n in range(size.repetitions)]
    lines = []
    for name in rounds[0]:
        rates, jobs = ([done[key].rate for done in rounds] for key in (name, JOB))
        lines.append(
            {
                "way": name,
                "precision": precision,
                "images": rounds[0][name].images,
                "images/s": f"{statistics.median(rates):.3g}",
                "whole job / this": ratio_of(jobs, rates),
            }
        )
    startup = statistics.median(done[JOB].startup for done in rounds)
    slower = ratio_of([done[BOTH].rate for done in rounds], [done[JOB].rate for done in rounds])
    others = _median_overlap(rounds[0][LOOP].found, rounds[0][JOB].found)
    said = [
        f"{precision}: start-up {startup:.1f} s; after it, wall time {slower} x (forward + post-processing alone).",
        same_rows(rounds[0][JOB].found, rounds[0][BOTH].found, exact=(device, precision) == ("cpu", "fp32")),
        f"Median IoU of the loop's masks with ours: {others:.3f}.",
    ]
    return lines, said


def _round(setting: Setting, folder: Path, output: Path, size: Size) -> dict[str, Done]:
    """Every way once."""
    segmenter = Segmenter.from_pretrained(
        str(setting.model), task=setting.task, device=setting.device, precision=setting.precision, threads=THREADS
    )
    plan, names = segmenter.labeling.preprocess, [photo.name for photo in setting.photos]
    images = [prepare_image(photo.read_bytes(), plan, MAX_PIXELS) for photo in setting.photos]
    prepared = [image for image in images if isinstance(image, Prepared)]
    half, few = len(names) // 2, setting.photos[: size.peer_images]
    warm = alone(segmenter, setting, names[:2], prepared[:2])
    before = alone(segmenter, setting, names[:half], prepared[:half])
    done = {JOB: whole_job(setting, folder, output)}
    after = alone(segmenter, setting, names[half:], prepared[half:])
    both = Done(len(names), before.seconds + after.seconds, before.found | after.found)
    assert both.found.keys() >= warm.found.keys()
    done |= {BOTH: both, FORWARD: forward_alone(segmenter, setting, prepared[: size.peer_images])}
    pipe, model = ready_pipeline(setting), ready_loop(setting)
    run_pipeline(pipe, setting, few[:1])
    done |= {PIPELINE: run_pipeline(pipe, setting, few)}
    done |= {LOOP: run_loader(model, setting, few, output / "loop.json")}
    say(", ".join(f"{name} {way.rate:.3g} images/s" for name, way in done.items()))
    return done


def same_rows(ours: dict[str, list[Segment]], wanted: dict[str, list[Segment]], *, exact: bool) -> str:
    """Say how far two runs agree. Raises AssertionError when ``exact`` and they do not."""
    assert ours.keys() == wanted.keys()
    differ = [name for name in wanted if _bare(ours[name]) != _bare(wanted[name])]
    assert not (exact and differ), f"{len(differ)} rows differ, e.g. {differ[0]}"
    if not differ:
        return f"The job's {len(wanted)} rows are those of one process, byte for byte."
    return f"Median IoU of the job's masks with one process': {_median_overlap(ours, wanted):.4f}."


def _bare(segments: list[Segment]) -> list[tuple[int, float, str]]:
    return [(s.category_id, float(torch.tensor(s.score, dtype=torch.float32)), s.counts) for s in segments]


def _median_overlap(found: dict[str, list[Segment]], wanted: dict[str, list[Segment]]) -> float:
    values = [value for name in found for value in overlaps(found[name], wanted[name])]
    return statistics.median(values) if values else 1.0


def main() -> int:
    """Measure, compare, print and write the table."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=200)
    options.add_argument("--peer-images", type=int, default=40, help="of those, for the slower ways")
    options.add_argument("--size", type=int, default=512, help="edge of the square canvas in pixels")
    options.add_argument("--repetitions", type=int, default=1)
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    chosen = options.parse_args()
    size = Size(chosen.images, min(chosen.images, chosen.peer_images), chosen.size, chosen.repetitions)
    if chosen.quick:
        size = Size(6, 3, min(chosen.size, 256), 1)
    torch.set_num_threads(THREADS)
    lines, said = measure(size, chosen.device, chosen.precision)
    about = f"Swin-T, random weights, {size.edge}x{size.edge} on {chosen.device}; {where_from()}; "
    about += f"{size.repetitions} repetition{'s' if size.repetitions > 1 else ''}."
    name = "job" if chosen.device == "cpu" else f"job-{chosen.device}-{chosen.precision}"
    publish(name, "The whole job", [about, table(lines), *said, NOTE], threads=THREADS, quick=chosen.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
