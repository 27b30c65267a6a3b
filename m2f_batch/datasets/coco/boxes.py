"""What an annotation of a COCO JSON says of itself beside its mask, box and area, held against that mask."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

CORNER = 2.0  # pixels that a corner of a box may lie off, and
CORNER_SHARE = 0.1  # of its longer side: boxes are drawn, too


class Claim(NamedTuple):
    """One annotation: where it stands, box [x, y, w, h] and area in pixels, None where the file has none."""

    where: str
    bbox: Sequence[float] | None
    area: float | None


def claim_of(entry: Mapping[str, Any], where: str) -> Claim:
    """The claim of an annotation, or of a segment of a panoptic one."""
    box, area = entry.get("bbox"), entry.get("area")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        box = None
    elif max(box[2:]) <= 1:  # in place of one: scripts write [0, 0, 0, 0] or [0, 0, 1, 1], and an area that goes along
        box = area = None
    return Claim(where, box, area if _is_number(area) else None)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e15  # false for NaN too


def contradiction(claim: Claim, area: int, bbox: Sequence[float]) -> str | None:
    """How a claim contradicts its mask's own box [x, y, w, h] and area; None where it does not, or not much, or
    the mask is empty.

    >>> contradiction(Claim("", [10, 10, 30, 30], 400), 400, [10, 10, 20, 20])
    'its box is [10, 10, 30, 30], that of its mask [10, 10, 20, 20]'
    """
    if not area:
        return None
    x, y, w, h = bbox
    if claim.bbox is not None:
        left, top, width, height = claim.bbox
        off = max(abs(left - x), abs(top - y), abs(left + width - x - w), abs(top + height - y - h))
        if off > CORNER + CORNER_SHARE * max(w, h, width, height):
            return (
                f"its box is {[round(edge) for edge in claim.bbox]}, that of its mask {[round(edge) for edge in bbox]}"
            )
    if claim.area is not None:
        # a drawn outline's area and its pixels differ by its rim; some files have the box's area
        rim = 2 * (w + h)
        if abs(claim.area - area) > rim + area / 4 and abs(claim.area - w * h) > rim:
            return f"its area is {claim.area:g}, that of its mask {area}"
    return None
