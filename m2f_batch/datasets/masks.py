"""Polygons, runs and label maps to canonical compressed COCO RLE, without a dense mask per object.

Polygons are filled as pycocotools does it (``frPyObjects``): that is the semantics of every polygon format here.
H, W are pixels. Points are [x, y] in pixels from the left and top edge of the image.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from m2f_batch.vision.masks.rle import encode_edges, run_lengths

FARTHEST = 1 << 20  # pixels, because pycocotools' time and memory grow with the length of an outline
MOST_RUN = 2**32  # pycocotools holds runs as 32-bit numbers

Size = tuple[int, int]


def is_size(height: Any, width: Any) -> bool:
    """Says whether these are the height and width of an image, in whole pixels, that pycocotools can hold a mask of."""
    return all(type(length) is int and 0 < length < 2**31 for length in (height, width)) and height * width < MOST_RUN


def polygon_fault(points: Any) -> str | None:
    """Says what keeps a flat list x, y, x, y, ... from being a polygon, or None if it is one."""
    if not isinstance(points, list) or not all(type(value) in (int, float) for value in points):
        return "a polygon must be a flat list of numbers x, y, x, y, ..."
    if len(points) < 6 or len(points) % 2:
        return f"a polygon needs x and y of at least 3 points, not {len(points)} numbers"
    if not all(-FARTHEST <= value <= FARTHEST for value in points):  # false for NaN too
        return f"a polygon's coordinates must be pixels within ±{FARTHEST:,}"
    return None


def polygons_rle(polygons: Sequence[Sequence[float]], size_hw: Size) -> str:
    """Returns the union of polygons, each flat: x, y, x, y, ...

    >>> polygons_rle([[1, 0, 2, 0, 2, 2, 1, 2]], (2, 2))
    '22'
    """
    height, width = size_hw
    parts = coco_mask.frPyObjects([[float(value) for value in polygon] for polygon in polygons], height, width)
    return coco_mask.merge(parts)["counts"].decode() if len(parts) > 1 else parts[0]["counts"].decode()


def even_odd_rle(polygons: Sequence[Sequence[float]], size_hw: Size) -> str:
    """Returns the pixels that lie in an odd number of the polygons: a polygon within another one is a hole."""
    if len(polygons) == 1:
        return polygons_rle(polygons, size_hw)
    edges = [np.cumsum(_runs(polygons_rle([polygon], size_hw)))[:-1] for polygon in polygons]
    return encode_edges(np.sort(np.concatenate(edges)), size_hw).counts


def _runs(counts: str) -> NDArray[np.int64]:
    """Runs that end with background, so that the edges between them are those of the mask."""
    runs = run_lengths(counts)
    return runs if len(runs) % 2 else np.append(runs, 0)


def union_rle(codes: Sequence[str], size_hw: Size) -> str:
    """Returns the union of masks."""
    return coco_mask.merge([as_rle(counts, size_hw) for counts in codes])["counts"].decode()


def without_rle(counts: str, others: Sequence[str], size_hw: Size) -> str:
    """Returns the pixels of a mask that no other has.

    >>> without_rle("22", ["13"], (2, 2)), without_rle("04", ["22"], (2, 2))
    ('4', '022')
    """
    if not others:
        return counts
    both = coco_mask.merge([as_rle(union_rle(others, size_hw), size_hw), as_rle(counts, size_hw)], intersect=True)
    edges = [np.cumsum(_runs(code))[:-1] for code in (counts, both["counts"].decode())]
    return encode_edges(np.sort(np.concatenate(edges)), size_hw).counts


def as_rle(counts: str, size_hw: Size) -> dict[str, Any]:
    """Gives the RLE as pycocotools takes it."""
    return {"size": [*size_hw], "counts": counts.encode()}


def runs_fault(runs: Any, size_hw: Size) -> str | None:
    """Says what keeps a list of runs from being a mask of H, W, or None if it is one."""
    if not isinstance(runs, list) or not all(type(run) is int and 0 <= run < MOST_RUN for run in runs):
        return "counts of an RLE must be a text or a list of run lengths"
    if sum(runs) != size_hw[0] * size_hw[1]:
        return f"the runs of its RLE add up to {sum(runs):,} pixels, its image has {size_hw[0] * size_hw[1]:,}"
    return None


def runs_rle(runs: Sequence[int], size_hw: Size) -> str:
    """Returns uncompressed RLE: run lengths in column-major order, background first.

    >>> runs_rle([2, 2], (2, 2))
    '22'
    """
    lengths = np.asarray(runs, np.int64)
    if len(lengths) % 2 == 0:
        lengths = np.append(lengths, 0)
    return encode_edges(np.cumsum(lengths)[:-1], size_hw).counts


def counts_runs(counts: str) -> list[int] | None:
    """Gives the runs behind compressed counts, however they are spelled, or None where these are none."""
    if not counts or not counts.isascii() or not all("0" <= char <= "o" for char in counts) or counts[-1] >= "P":
        return None
    return run_lengths(counts).tolist()


def label_map_rle(labels: NDArray[Any]) -> dict[int, str]:
    """Returns the mask of every value of a label map, integer [H, W].

    >>> label_map_rle(np.array([[5, 7], [5, 7]]))
    {5: '022', 7: '22'}
    """
    height, width = labels.shape
    pixels = labels.ravel(order="F")
    starts = np.flatnonzero(np.concatenate([[True], pixels[1:] != pixels[:-1]]))
    ends = np.append(starts[1:], len(pixels))
    values = pixels[starts]
    order = np.argsort(values, kind="stable")
    edges = np.stack([starts[order], ends[order]], axis=1)
    values, firsts = np.unique(values[order], return_index=True)
    parts = np.split(edges, firsts[1:])
    return {
        int(value): encode_edges(part.ravel(), (height, width)).counts
        for value, part in zip(values, parts, strict=True)
    }


def areas(codes: Iterable[str], size_hw: Size) -> list[int]:
    """Returns pixels of each mask."""
    rles = [as_rle(counts, size_hw) for counts in codes]
    return [int(area) for area in coco_mask.area(rles)] if rles else []


def area_and_box(counts: str, size_hw: Size) -> tuple[int, list[float]]:
    """Measures the pixels of a mask, and its box [x, y, w, h]. A mask without a pixel has a box of zeros."""
    rle = as_rle(counts, size_hw)
    return int(coco_mask.area(rle)), coco_mask.toBbox(rle).tolist()
