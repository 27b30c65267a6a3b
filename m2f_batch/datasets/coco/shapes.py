"""Turns the ``segmentation`` of a COCO annotation, in all its spellings, into a mask."""

import ast
import contextlib
import json
import re
from typing import Any, NamedTuple

from m2f_batch.datasets.coco.images_and_categories import Size, whole
from m2f_batch.datasets.masks import (
    counts_runs,
    polygon_fault,
    polygons_rle,
    runs_fault,
    runs_rle,
    union_rle,
    without_rle,
)
from m2f_batch.vision.masks.rle import run_lengths

_FEWEST = 6  # numbers of a polygon


class Shape(NamedTuple):
    """The shape of a mask: ``polygons``, each flat, or ``runs`` where there are none.

    ``dropped`` counts parts with fewer than 3 points, which have no area. detectron2 drops them, too.
    """

    polygons: list[list[float]]
    runs: list[int]
    dropped: int = 0

    def counts(self, size_hw: Size) -> str:
        """Returns the mask as compressed RLE."""
        return polygons_rle(self.polygons, size_hw) if self.polygons else runs_rle(self.runs, size_hw)


class Fault(NamedTuple):
    """``kind`` and text of a finding."""

    kind: str
    text: str


def read_shape(value: Any, size_hw: Size) -> Shape | Fault:
    """Reads the shape of a ``segmentation``, of an image of H, W, or gives what keeps it from being one."""
    value = _from_text(value)  # through a table
    if value is None or value == [] or value != value:
        return Fault("no-mask", "has no 'segmentation': a box is not enough to learn masks from")
    several = value if isinstance(value, list) else [value]
    if several and all(isinstance(one, dict) for one in several):
        return _of_objects(several, size_hw)
    if not isinstance(value, list):
        return Fault("invalid-mask", "'segmentation' must be a list of polygons or an RLE with 'counts'")
    return _polygons(value)


def _from_text(value: Any) -> Any:
    """Parses a text of JSON, or of Python, and gives any other value as it is."""
    if isinstance(value, str):
        for read in (json.loads, ast.literal_eval):
            with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                return read(value)
    return value


def _of_objects(several: list[dict[str, Any]], size_hw: Size) -> Shape | Fault:
    """Returns the union of RLEs, and of polygons with holes as kwcoco writes them."""
    codes = []
    for one in several:
        shape = _with_holes(one, size_hw) if "exterior" in one else _rle(one, size_hw)
        if isinstance(shape, Fault) or len(several) == 1:
            return shape
        codes.append(shape.counts(size_hw))
    return Shape([], run_lengths(union_rle(codes, size_hw)).tolist())


def _with_holes(value: dict[str, Any], size_hw: Size) -> Shape | Fault:
    outer, holes = _polygons([value["exterior"]]), [_polygons([hole]) for hole in value.get("interiors") or []]
    fault = next((one for one in (outer, *holes) if isinstance(one, Fault)), None)
    if fault is not None:
        return fault
    counts, *inner = [one.counts(size_hw) for one in (outer, *holes) if isinstance(one, Shape)]
    return Shape([], run_lengths(without_rle(counts, inner, size_hw)).tolist()) if inner else outer


def _polygons(value: list[Any]) -> Shape | Fault:
    parts = [_flat(part) for part in _unwrapped([_from_text(part) for part in value])]
    parts = [[] if part is None else part for part in parts]
    short = [part for part in parts if isinstance(part, list) and len(part) < _FEWEST]
    good = [part for part in parts if not isinstance(part, list) or len(part) >= _FEWEST]
    fault = next((fault for fault in map(polygon_fault, good or short) if fault), None)
    if not fault and good and all(0 <= number <= 1 for part in good for number in part):
        fault = "its coordinates are all 0 to 1, most likely shares of the image; COCO's are pixels"
    return Fault("invalid-mask", fault) if fault else Shape(good, [], len(short))


def _unwrapped(value: list[Any]) -> list[Any]:
    """The parts of a mask, where it is one polygon without a list of its own, or all are in one list too many."""
    if all(_number(number) is not None for number in value) or (len(value) > 2 and all(map(_is_point, value))):
        return [value]
    if len(value) == 1 and isinstance(value[0], list):
        inner = value[0]
        is_one = len(inner) == 1 and isinstance(inner[0], list) and len(inner[0]) > 2 and all(map(_is_point, inner[0]))
        if is_one or (inner and all(map(_is_long, inner))):
            return inner
    return value


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= _FEWEST and all(_number(one) is not None for one in value)


def _is_point(value: Any) -> bool:
    return point_of(value) is not None


def point_of(value: Any) -> list[float] | None:
    """Gives the numbers of [x, y] or {"x": x, "y": y}, which may be texts, or None for what is no point."""
    if isinstance(value, dict) and {"x", "y"} <= value.keys():
        value = [value["x"], value["y"]]
    numbers = [_number(one) for one in value] if isinstance(value, list) and len(value) == 2 else [None]
    return None if None in numbers else [number for number in numbers if number is not None]


def _number(value: Any) -> float | None:
    """Returns a number, of a text too."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value if type(value) in (int, float) else None


def _flat(part: Any) -> Any:
    r"""Flattens a polygon of points to numbers x, y, x, y, ... and gives any other value as it is.

    >>> _flat([[1, 2], [3, 4]]), _flat([{"x": 1, "y": 2}]), _flat([1, "2.5", 3, 4])
    ([1, 2, 3, 4], [1, 2], [1, 2.5, 3, 4])
    """
    if not isinstance(part, list) or not part or all(type(value) in (int, float) for value in part):
        return part
    points = [point_of(value) for value in part]
    if None not in points:
        return [number for point in points if point is not None for number in point]
    numbers = [_number(value) for value in part]
    return part if None in numbers else numbers


def _rle(value: dict[str, Any], size_hw: Size) -> Shape | Fault:
    if "counts" not in value:
        return Fault("invalid-mask", "'segmentation' must be a list of polygons or an RLE with 'counts'")
    size = _from_text(value.get("size"))
    edges = [whole(edge) for edge in size] if isinstance(size, list | tuple) else None
    if size is not None and edges != [*size_hw]:  # without one it is the image's, if the runs add up to that
        turned = ": its height and width are swapped" if edges == [*size_hw][::-1] else ""
        return Fault("mask-size", f"its RLE has the size {size}, its image {[*size_hw]} (height, width){turned}")
    runs, fault = _runs(value["counts"]), None
    fault = "its compressed RLE is none" if runs is None else runs_fault(runs, size_hw)
    if fault and isinstance(value["counts"], list):
        again = _runs_of_bytes(value["counts"])
        if again is not None and not runs_fault(again, size_hw):
            return Shape([], again)
    return Fault("invalid-mask", fault) if fault else Shape([], runs or [])


def _runs(counts: Any) -> Any:
    """Gives the runs, of compressed counts too, or None for a text that is none."""
    if isinstance(counts, list):
        numbers = [whole(run) for run in counts]
        return counts if None in numbers else numbers
    if not isinstance(counts, str):
        return counts
    text = counts.strip()
    if re.search(r"[\s,]", text):  # run lengths as a text
        numbers = [whole(run) for run in re.split(r"[\s,]+", text.strip("[]() "))]
        return None if None in numbers else numbers
    if text[:2] in ("b'", 'b"'):  # what Python makes of bytes when asked for a text
        try:
            text = ast.literal_eval(text).decode()
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return counts_runs(text)


def _runs_of_bytes(numbers: list[Any]) -> list[int] | None:
    """The runs of compressed counts that were written as a list of the numbers of their letters."""
    try:
        return counts_runs(bytes(numbers).decode())
    except (TypeError, ValueError):
        return None
