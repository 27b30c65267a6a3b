"""Holds the box and the area that an annotation states beside its mask against that mask."""

from collections.abc import Mapping, Sequence
from typing import Any

from m2f_batch.datasets.dataset import Stated

CORNER = 2.0  # pixels that a corner of a box may lie off, and
CORNER_SHARE = 0.1  # of its longer side: boxes are drawn, too


def stated_by(entry: Mapping[str, Any], where: str) -> Stated:
    """Returns the box and area of an annotation, or of a segment of a panoptic one, which stands at ``where``."""
    box, area = entry.get("bbox"), entry.get("area")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        box = None
    elif max(box[2:]) <= 1:  # in place of one: scripts write [0, 0, 0, 0] or [0, 0, 1, 1], and an area that goes along
        box = area = None
    return Stated(where, box, area if _is_number(area) else None)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e15  # false for NaN too


def contradiction(stated: Stated, area: int, bbox: Sequence[float]) -> str | None:
    """Says how an annotation contradicts its mask's own box [x, y, w, h] and area.

    Gives None where it does not, or not much, and for an empty mask.

    >>> contradiction(Stated("", [10, 10, 30, 30], 400), 400, [10, 10, 20, 20])
    'its box is [10, 10, 30, 30], that of its mask [10, 10, 20, 20]'
    """
    if not area:
        return None
    x, y, w, h = bbox
    if stated.bbox is not None:
        left, top, width, height = stated.bbox
        off = max(abs(left - x), abs(top - y), abs(left + width - x - w), abs(top + height - y - h))
        if off > CORNER + CORNER_SHARE * max(w, h, width, height):
            return (
                f"its box is {[round(edge) for edge in stated.bbox]}, that of its mask {[round(edge) for edge in bbox]}"
            )
    if stated.area is not None:
        # a drawn outline's area and its pixels differ by its rim, and some files have the area of the box
        rim = 2 * (w + h)
        if abs(stated.area - area) > rim + area / 4 and abs(stated.area - w * h) > rim:
            return f"its area is {stated.area:g}, that of its mask {area}"
    return None
