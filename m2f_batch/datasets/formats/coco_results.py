"""Writes COCO results: a JSON list of detections with scores. https://cocodataset.org/#format-results"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from m2f_batch.datasets.format import Format, Target

if TYPE_CHECKING:
    from m2f_batch.datasets.annotated import AnnotatedImages


def _write(splits: "Mapping[str, AnnotatedImages]", target: Target) -> Iterator[str]:
    from m2f_batch.datasets.coco.writer import write_coco_results

    return write_coco_results(splits, target)


FORMAT = Format(
    name="coco-results",
    help="COCO results",
    write=_write,
    suffix=".json",
    begins=r'\[\s*(\]|\{\s*"(image_id|bbox|category_id)":)',
    needs_scores=True,
)
