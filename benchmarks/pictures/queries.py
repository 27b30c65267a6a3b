"""Draws what became of the queries of one scene of the demo, as `m2f-batch explain` does.

python -m benchmarks.pictures.queries
"""

import sys

from PIL import Image

from benchmarks.pictures.drawing import save_image
from benchmarks.pictures.forward import see
from m2f_batch.explain.definition import Judged, define
from m2f_batch.explain.pictures import Cell, heatmaps

NUMBER = 6  # of the demo's scenes
SHOWN = 12  # queries, those that are kept first


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
    sheet = heatmaps(logits.mask_logits, seen.frame, [cell(item) for item in judged[:SHOWN]])
    save_image(Image.fromarray(sheet), "queries.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
