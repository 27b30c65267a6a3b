"""Post-processing and RLE on one thread: ours, the definition written densely, and transformers as shipped.

    python -m benchmarks.parts.postprocess [--quick] [--canvas 384]

In the same run ours is compared with the plain definition, pixel by pixel; a difference ends the run with an error.
"""

import statistics
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple, get_args

import torch

from benchmarks.lib.agreement import check_same, expected, overlaps
from benchmarks.lib.peers import DENSE, Way, shipped
from benchmarks.lib.photos import where_from
from benchmarks.lib.timing import Rounds, parser, publish, ratio_of, say, show_seconds, table, take_turns
from benchmarks.lib.work import CANVASES, SQUARE, Work, make_work
from m2f_batch.config.segment import Task
from m2f_batch.models.predictions import QueryLogits
from m2f_batch.records import Segment
from m2f_batch.vision.postprocess import POSTPROCESS

SIZES = ((480, 640), (1080, 1920), (2160, 3840))


class Cell(NamedTuple):
    """One line of the table."""

    task: Task
    output: tuple[int, int]
    kept: int
    classes: int


ANCHORS = {  # seconds that the task names for the peers, by task, output, kept masks and classes
    Cell("instance", (2160, 3840), 40, 80): "14.7 s",
    Cell("instance", (480, 640), 20, 80): "0.83 s",
    Cell("semantic", (2160, 3840), 40, 150): "23.6 s",
}
NOTE = """Seconds are medians; ratios are medians over rounds in which all took turns, with the lowest and highest.
*dense* is the contract's definition at full size (torch `interpolate`, threshold or argmax, pycocotools); its masks are
ours. *transformers* is its image processor's own `post_process_*` at the image's size and pycocotools for the masks; it
works on a 384x384 square, so its masks are others: the last column is their median IoU with the definition's.
*anchor* is what `transformers` and pycocotools had taken on the machine where the goal was set. *same* counts our
segments: all were compared with the plain definition and are equal, pixels within 1e-4 of a threshold aside."""


def cells(quick: bool) -> Iterator[Cell]:
    """Yield the cells to measure."""
    if quick:
        yield from (Cell("instance", (480, 640), 20, 80), Cell("panoptic", (480, 640), 20, 133))
        yield Cell("semantic", (480, 640), 20, 150)
        return
    for output in SIZES:
        few = (5, 20, 40, 100) if output == SIZES[0] else (5, 40, 100)
        yield from (Cell("instance", output, kept, 80) for kept in few)
        yield from (Cell("panoptic", output, kept, 133) for kept in (5, 40, 100))
        yield from (Cell("semantic", output, 40, classes) for classes in (80, 150))


@torch.inference_mode()
def ours(work: Work) -> list[Segment]:
    """The contract's function for the task."""
    return POSTPROCESS[QueryLogits, work.task](work.class_logits, work.mask_logits, **work.sizes, **work.options)


def measure(cell: Cell, size: Any, rounds: Rounds, way: Way = ours) -> dict[str, Any]:
    """One line of the table. Raises AssertionError when the segments are not the definition's."""
    work = make_work(cell.task, cell.output, cell.kept, classes=cell.classes, size=size)
    ways = {"ours": way, "dense": DENSE[cell.task], "transformers": shipped}
    seconds, answers = take_turns({name: partial(run, work) for name, run in ways.items()}, rounds)
    regions = expected(work)
    check_same(answers["ours"], regions)
    check_same(answers["dense"], regions)
    theirs = overlaps(answers["transformers"], answers["dense"])
    line = {
        "task": cell.task,
        "output": f"{cell.output[0]}x{cell.output[1]}",
        "classes": cell.classes,
        "kept": cell.kept,
        "ours": show_seconds(seconds["ours"]),
        "dense": show_seconds(seconds["dense"]),
        "transformers": show_seconds(seconds["transformers"]),
        "anchor": ANCHORS.get(cell, ""),
        "dense / ours": ratio_of(seconds["dense"], seconds["ours"]),
        "transformers / ours": ratio_of(seconds["transformers"], seconds["ours"]),
        "rounds": len(seconds["ours"]),
        "same": len(regions),
        "IoU of transformers": f"{statistics.median(theirs):.3f}" if theirs else "",
    }
    say(", ".join(f"{name} {value}" for name, value in line.items()))
    return line


def main() -> int:
    """Measure every cell, compare, print and write the table."""
    options = parser(__doc__)
    options.add_argument("--canvas", choices=["paper", "384"], default="paper", help="size of the model's canvas")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    size = SQUARE if chosen.canvas == "384" else None
    rounds = Rounds(2, 2) if chosen.quick else Rounds()
    for task in get_args(Task):  # what a first call costs is not what is asked
        measure(Cell(task, (120, 160), 5, 80), SQUARE, Rounds(1, 1))
    lines = [measure(cell, size, rounds) for cell in cells(chosen.quick)]
    canvas = "384x384" if size else ", ".join(f"{t} {s.shortest_edge}/{s.longest_edge}" for t, s in CANVASES.items())
    shapes = f"Canvas (shortest/longest edge): {canvas}. 100 queries; shapes from {where_from()}."
    name = "postprocess" if chosen.canvas == "paper" else "postprocess-384"
    publish(name, "Post-processing and RLE", [shapes, table(lines), NOTE], threads=1, quick=chosen.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
