"""Counts what training will see of a dataset, over the finished rows and by the same rule for every format.

Crowds are no objects, a mask without a pixel teaches nothing, and ignored pixels hold no class.
"""

from collections.abc import Iterator
from typing import NamedTuple

from m2f_batch.config.segment import Task
from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.findings import Finding
from m2f_batch.datasets.masks import areas

MOST_CROWDS = 0.05  # of all masks, of which COCO has 0.012


class Learnable(NamedTuple):
    """Of a dataset: ``objects`` that are learned, ``crowds``, masks without a pixel, images with nothing to learn."""

    images: int = 0
    objects: int = 0
    crowds: int = 0
    without_pixels: int = 0
    empty_images: int = 0

    def __str__(self) -> str:
        said = f"{self.objects:,} objects, {self.crowds:,} crowds, {self.empty_images:,} empty images"
        return said + (f", {self.without_pixels:,} masks without a pixel" if self.without_pixels else "")


def learnable(dataset: Dataset, task: Task | None = None) -> Learnable:
    """The counts of a dataset. As training has it, ``task`` instance learns things only, semantic learns crowds too."""
    learned = [category.isthing or task != "instance" for category in dataset.categories]
    images = objects = crowds = void = empty = 0
    for row in dataset.rows():
        wanted = [one for one in row["segments"] if learned[one["category"]]]
        alone = [one for one in wanted if task == "semantic" or not one["iscrowd"]]
        seen = sum(map(bool, areas([one["counts"] for one in alone], (row["height"], row["width"]))))
        images += 1
        objects += seen
        crowds += len(wanted) - len(alone)
        void += len(alone) - seen
        empty += not seen
    return Learnable(images, objects, crowds, void, empty)


def learnable_findings(found: Learnable, place: str) -> Iterator[Finding]:
    """Yields a fault where nothing is left to learn, a note where crowds are more than usual."""
    masks = found.objects + found.crowds + found.without_pixels
    share = "all" if found.crowds == masks else f"{found.crowds:,} of"
    crowds = (
        f"{share} {masks:,} masks are crowds (iscrowd: 1) and not learned; CVAT writes brush masks so: "
        "data.crowd_as_object: true takes them as objects"
    )
    if found.images and not found.objects:
        reasons = [crowds] if found.crowds else []
        reasons += [f"{found.without_pixels:,} of {masks:,} masks have no pixel"] if found.without_pixels else []
        reasons += [f"none of {found.images:,} images has an object, or a pixel of a class"] if not reasons else []
        yield Finding("nothing-to-learn", place, "; ".join(reasons))
    elif found.crowds > MOST_CROWDS * masks:
        yield Finding("crowds", place, crowds)
