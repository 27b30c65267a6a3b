"""Compares two rows of one image, and segments with the plain definition, on RLE alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from m2f_batch.records import Row, table_of

PAIRED_IOU = 0.5  # from which two segments are taken for the same thing

Rle = dict[str, Any]


def compare(stored: Row | None, now: Row) -> dict[str, Any]:
    """Compare the stored row with the one made now: ``same``, ``differs`` in words, and ``segments``.

    Two equal rows are equal in every column, numbers as Parquet keeps them.
    """
    if stored is None:
        return {"same": False, "differs": ["the run has no row of this image yet"], "segments": None}
    (now,) = table_of([now]).to_pylist()
    fields = [name for name in now if now[name] != stored[name]]
    if not fields:
        return {"same": True, "differs": [], "segments": None}
    differs = [f"{name}: {stored[name]} in the run, {now[name]} now" for name in fields if name != "segments"]
    segments = None
    if stored["status"] == now["status"] == "ok" and (stored["height"], stored["width"]) == (
        now["height"],
        now["width"],
    ):
        segments = _segments(stored, now)
        differs.append(_in_words(segments))
    return {"same": False, "differs": differs, "segments": segments}


def rles(entries: Sequence[dict[str, Any]], size_hw: tuple[int, int]) -> list[Rle]:
    """Return the masks of a row's segments, for pycocotools."""
    return [{"size": list(size_hw), "counts": entry["counts"].encode()} for entry in entries]


def flips(one: Rle, other: Rle) -> int:
    """Count the pixels that are in one of two masks only."""
    common = coco_mask.merge([one, other], intersect=True)
    return int(coco_mask.area(one)) + int(coco_mask.area(other)) - 2 * int(coco_mask.area(common))


def pairs(before: Sequence[Rle], after: Sequence[Rle]) -> list[tuple[int, int, float]]:
    """Pair masks: (index, index, IoU), the highest IoU first, each mask once."""
    if not before or not after:
        return []
    ious = np.asarray(coco_mask.iou(list(after), list(before), [0] * len(before))).T
    found: list[tuple[int, int, float]] = []
    for flat in np.argsort(-ious, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(after))
        if ious[i, j] < PAIRED_IOU:
            break
        if all(i != a and j != b for a, b, _ in found):
            found.append((i, j, float(ious[i, j])))
    return found


def _segments(stored: Row, now: Row) -> dict[str, Any]:
    size_hw = (now["height"], now["width"])
    before, after = (rles(row["segments"], size_hw) for row in (stored, now))
    paired = pairs(before, after)
    matched = []
    for i, j, iou in sorted(paired):
        old, new = stored["segments"][i], now["segments"][j]
        matched.append(
            {
                "in_run": _named(old),
                "now": _named(new),
                "iou": iou,
                "flipped_pixels": flips(before[i], after[j]),
                "score_difference": new["score"] - old["score"],
            }
        )
    lost = [_named(entry) for i, entry in enumerate(stored["segments"]) if i not in {pair[0] for pair in paired}]
    found = [_named(entry) for j, entry in enumerate(now["segments"]) if j not in {pair[1] for pair in paired}]
    return {"matched": matched, "only_in_run": lost, "only_now": found}


def _named(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: entry[key] for key in ("id", "category", "score", "area")}


def _in_words(segments: dict[str, Any]) -> str:
    matched = segments["matched"]
    renamed = sum(pair["in_run"]["category"] != pair["now"]["category"] for pair in matched)
    flipped = sum(pair["flipped_pixels"] for pair in matched)
    worst = max((abs(pair["score_difference"]) for pair in matched), default=0.0)
    return (
        f"segments: {len(matched)} matched ({flipped} pixels flipped, scores within {worst:.2g}, {renamed} of another "
        f"category), {len(segments['only_in_run'])} only in the run, {len(segments['only_now'])} only now"
    )
