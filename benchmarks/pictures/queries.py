"""Draws what became of the queries of one scene of the demo, as `m2f-batch explain` does.

python -m benchmarks.pictures.queries
"""

import sys

import numpy as np
from PIL import Image

from benchmarks.pictures.drawing import save_image
from benchmarks.pictures.forward import see
from m2f_batch.explain.definition import Judged, define
from m2f_batch.explain.pictures import Cell, heatmaps

NUMBER = 6  # of the demo's scenes
SHOWN, COLUMNS = 12, 4  # queries, those that are kept first; fewer beside each other than a sheet has


def main() -> int:
    """Label the scene, and draw each query's class score times its mask probability."""
    seen = see(NUMBER, "panoptic")
    logits = seen.logits
    found = define(logits.class_logits, logits.mask_logits, "panoptic", seen.frame, seen.labeling.postprocess)
    names = [category.name for category in seen.labeling.categories]

    def cell(item: Judged) -> Cell:
        name = f"q{item.query} {names[item.category_id]} {item.class_score:.3f}"
        return Cell(
            item.query, item.class_score, bool(item.segments), (name, item.detail or f"segment {item.segments[0]}")
        )

    judged = sorted(found.judged, key=lambda item: (not item.segments, item.segments, -item.class_score))
    cells = [cell(item) for item in judged[:SHOWN]]
    rows = [heatmaps(logits.mask_logits, seen.frame, cells[at : at + COLUMNS]) for at in range(0, SHOWN, COLUMNS)]
    save_image(Image.fromarray(np.concatenate(rows)), "queries.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
