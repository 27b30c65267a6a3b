"""Draws masks of ours beside those of transformers' post-processing, from the same logits, with one edge enlarged.

    python -m benchmarks.pictures.staircase

A scene of the demo is enlarged to three megapixels, as a camera would have taken it, and goes through the bundled model
once.
"""

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from benchmarks.lib.peers import shipped_segments
from benchmarks.pictures.drawing import INK, save
from benchmarks.pictures.forward import Seen, see
from m2f_batch.demo.scenes import BALL
from m2f_batch.records import Segment
from m2f_batch.vision.postprocess import segments_of

NUMBER, CATEGORY_ID = 21, BALL  # of the demo's scenes; the edge of its smallest ball is enlarged
ENLARGED = 8
CROP = 130  # pixels of the enlarged scene


def found_by_both(seen: Seen) -> tuple[list[Segment], list[Segment]]:
    """Return the instances that each finds in the logits of a scene."""
    from transformers import Mask2FormerImageProcessor

    ours = segments_of(seen.logits, "instance", seen.frame, seen.labeling.postprocess)
    logits = seen.logits
    outputs = SimpleNamespace(
        class_queries_logits=logits.class_logits[None], masks_queries_logits=logits.mask_logits[None]
    )
    theirs = shipped_segments(Mask2FormerImageProcessor(), outputs, "instance", seen.frame.output, {})
    return ours, theirs


def pairs(ours: list[Segment], theirs: list[Segment]) -> Iterator[tuple[float, Segment, Segment]]:
    """Yield each object of ours with the one of theirs that has most of its pixels, and their IoU."""
    for segment in ours:
        mask = segment.mask()
        other = max(theirs, key=lambda each: int((each.mask() & mask).sum()))
        yield (mask & other.mask()).sum() / (mask | other.mask()).sum(), segment, other


def edge_of(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Return (y, x), the pixel of the mask that is farthest up and to the right, where no edge is straight."""
    rows, columns = np.nonzero(mask)
    at = int((columns.astype(np.int64) - rows).argmax())
    return int(rows[at]), int(columns[at])


def faded(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Fade what is not in a mask to light gray."""
    gray = 200 + image.mean(2, keepdims=True) * 0.2
    return np.where(mask[:, :, None], image, gray).astype(np.uint8)


def main() -> int:
    """Find, measure and draw."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    seen = see(NUMBER, "instance", ENLARGED)
    image = seen.image
    balls = [pair for pair in pairs(*found_by_both(seen)) if pair[1].category_id == CATEGORY_ID]
    iou, mine, other = min(balls, key=lambda pair: pair[1].area)
    y, x = edge_of(mine.mask())
    half = CROP // 2
    top, left = max(y - half, 0), min(max(x - half, 0), image.shape[1] - CROP)
    box = slice(top, top + CROP), slice(left, left + CROP)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    whole, ours, theirs = figure.subplots(1, 3, width_ratios=(4 / 3, 1, 1))
    whole.imshow(image[::4, ::4], extent=(0, image.shape[1], image.shape[0], 0))
    whole.add_patch(Rectangle((left, top), CROP, CROP, fill=False, edgecolor="white", linewidth=2))
    ours.imshow(faded(image, mine.mask())[box], interpolation="nearest")
    theirs.imshow(faded(image, other.mask())[box], interpolation="nearest")
    height, width = image.shape[:2]
    titles = f"a scene of {width} x {height} pixels", "m2f_batch", "transformers"
    for axis, title in zip((whole, ours, theirs), titles, strict=True):
        axis.set_title(title, color=INK, fontsize=10)
        axis.set_axis_off()
    figure.supxlabel("faded: what is not in the mask", color=INK, fontsize=9)
    print(f"IoU of the two masks: {iou:.3f}")
    save(figure, "staircase.png", dpi=100)
    return 0


if __name__ == "__main__":
    sys.exit(main())
