"""Checks the masks of one image: empty, slivers, twice the same, too many, not those of their boxes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from m2f_batch.datasets.coco.boxes import contradiction
from m2f_batch.datasets.dataset import Category, Stated
from m2f_batch.datasets.findings import Finding
from m2f_batch.datasets.masks import as_rle

FEWEST_PIXELS = 10  # of an object: less is left over from drawing
THINNEST = 1.5  # pixels, mean: a line, not an area
SAME = 0.95  # IoU of two masks that are one object

Size = tuple[int, int]


class Setting(NamedTuple):
    """The settings of a training that decide what it sees of a dataset.

    ``canvas_hw`` in pixels, [least, most] of ``augment.scale``, the model's queries, and whether it learns one mask per
    class, not per object.
    """

    canvas_hw: Size
    scale: tuple[float, float]
    queries: int
    is_semantic: bool = False

    def ratio(self, image_hw: Size) -> float:
        """Canvas pixels per image pixel at the scale 1, or the nearest one that is drawn."""
        factor = min(max(1.0, self.scale[0]), self.scale[1])
        return factor * min(edge / length for edge, length in zip(self.canvas_hw, image_hw, strict=True))


def queries_wanted(row: Mapping[str, Any], *, is_semantic: bool) -> int:
    """Counts the queries that an image takes: one for each object, or of a semantic model one for each class."""
    if is_semantic:
        return len({segment["category"] for segment in row["segments"]})
    return sum(not segment["iscrowd"] for segment in row["segments"])


def mask_findings(
    row: Mapping[str, Any],
    categories: Sequence[Category],
    stated: Sequence[Stated],
    setting: Setting,
) -> Iterator[Finding]:
    """Checks one row of a dataset. ``stated`` are the boxes and areas that its annotations state, or none."""
    segments, size_hw = row["segments"], (row["height"], row["width"])
    objects = [number for number, segment in enumerate(segments) if not segment["iscrowd"]]
    wanted = queries_wanted(row, is_semantic=setting.is_semantic)
    if wanted > setting.queries:
        what = "classes" if setting.is_semantic else "objects"
        text = f"has {wanted:,} {what}, the model {setting.queries:,} queries"
        yield Finding("more-objects-than-queries", row["uri"], text)
    if not segments:
        yield Finding("unlabelled-image", row["uri"], "has no annotation")
        return
    rles = [as_rle(segment["counts"], size_hw) for segment in segments]
    areas, boxes = coco_mask.area(rles), coco_mask.toBbox(rles)
    known = stated if len(stated) == len(segments) else ()
    names = [_name(row, number, categories, known) for number in range(len(segments))]
    for number in objects:
        isthing = categories[segments[number]["category"]].isthing
        yield from _shape(names[number], int(areas[number]), boxes[number], setting.ratio(size_hw), isthing)
    for number, one in enumerate(known):
        fault = contradiction(one, int(areas[number]), boxes[number].tolist())
        if fault:
            yield Finding("box-mismatch", names[number], fault)
    for first, second, iou in twins([segment["category"] for segment in segments], rles, areas):
        if not segments[first]["iscrowd"] and not segments[second]["iscrowd"]:
            text = f"is the same object as {names[first]}: IoU {iou:.2f}, one class"
            yield Finding("duplicate-annotation", names[second], text)


def _name(row: Mapping[str, Any], number: int, categories: Sequence[Category], stated: Sequence[Stated]) -> str:
    name = categories[row["segments"][number]["category"]].name
    if stated:
        return f"{stated[number].where}: {row['uri']} ({name!r})"
    return f"{row['uri']}: object {number + 1} ({name!r})"


def _shape(where: str, area: int, box: NDArray[np.float64], ratio: float, isthing: bool) -> Iterator[Finding]:
    text = sliver(area, box, ratio, isthing)
    if not area:
        yield Finding("empty-mask", where, "its mask has no pixel")
    elif text:
        yield Finding("sliver-mask", where, text)


def sliver(area: int, box: NDArray[np.float64], ratio: float, isthing: bool = True) -> str | None:
    """Says why a mask of an area and a box [x, y, w, h], in pixels, is next to nothing. None: it is an area.

    ``ratio``: canvas pixels per image pixel. The thickness is the mean one along the longer side of the box; stuff,
    whose parts lie anywhere, has none.
    """
    if not area:
        return None
    thickness = area / max(box[2], box[3])
    if area < FEWEST_PIXELS:
        return f"its mask has {area} pixels"
    if not isthing:
        return None
    if thickness < THINNEST:
        return f"its mask is {thickness:.1f} pixels thick on average ({area} pixels)"
    if thickness * ratio < 1:
        return f"its mask is {thickness * ratio:.2f} pixels thick on the training canvas ({thickness:.1f} in the image)"
    return None


def twins(
    classes: Sequence[int], rles: Sequence[Mapping[str, Any]], areas: NDArray[Any]
) -> Iterator[tuple[int, int, float]]:
    """Pairs of one class whose IoU is above SAME, each second one once, with it.

    Only those whose areas allow it are compared.
    """
    sizes = np.asarray(areas, np.float64)
    labels = np.asarray(classes)
    for second in range(1, len(rles)):
        smaller, larger = np.minimum(sizes[:second], sizes[second]), np.maximum(sizes[:second], sizes[second])
        before = np.flatnonzero((labels[:second] == labels[second]) & (smaller > SAME * larger))
        if not len(before):
            continue
        ious = coco_mask.iou([rles[second]], [rles[first] for first in before.tolist()], [0] * len(before))[0]
        if ious.max() > SAME:
            yield int(before[ious.argmax()]), second, float(ious.max())
