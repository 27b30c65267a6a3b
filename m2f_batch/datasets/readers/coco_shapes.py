"""The ``segmentation`` of a COCO annotation, in all its spellings, to a mask."""

import ast
import contextlib
import itertools
import json
from typing import Any, NamedTuple

from m2f_batch.datasets.masks import counts_runs, polygon_fault, polygons_rle, runs_fault, runs_rle
from m2f_batch.datasets.readers.coco_heads import Size, whole

_FEWEST = 6  # numbers of a polygon


class Shape(NamedTuple):
    """What a mask is drawn from: ``polygons``, each flat, or ``runs`` where there are none.

    ``dropped``: parts with fewer than 3 points, which have no area; detectron2 drops them, too.
    """

    polygons: list[list[float]]
    runs: list[int]
    dropped: int = 0

    def counts(self, size_hw: Size) -> str:
        """The mask as compressed RLE."""
        return polygons_rle(self.polygons, size_hw) if self.polygons else runs_rle(self.runs, size_hw)


class Fault(NamedTuple):
    """``kind`` and text of a finding."""

    kind: str
    text: str


def read_shape(value: Any, size_hw: Size) -> Shape | Fault:
    """The shape that a ``segmentation`` is, of an image of H, W; or what keeps it from being one."""
    if isinstance(value, str):  # through a table
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if value is None or value == [] or value != value:
        return Fault("no-mask", "has no 'segmentation': a box is not enough to learn masks from")
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, list):
        return _polygons(value)
    if not isinstance(value, dict) or "counts" not in value:
        return Fault("invalid-mask", "'segmentation' must be a list of polygons or an RLE with 'counts'")
    return _rle(value, size_hw)


def _polygons(value: list[Any]) -> Shape | Fault:
    if all(type(number) in (int, float) for number in value) or (len(value) > 2 and all(map(_is_point, value))):
        value = [value]  # one polygon, not in a list of its own
    parts = [_flat(part) for part in value]
    short = [part for part in parts if isinstance(part, list) and len(part) < _FEWEST]
    good = [part for part in parts if not isinstance(part, list) or len(part) >= _FEWEST]
    fault = next((fault for fault in map(polygon_fault, good or short) if fault), None)
    return Fault("invalid-mask", fault) if fault else Shape(good, [], len(short))


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(number) in (int, float) for number in value)


def _flat(part: Any) -> Any:
    r"""A polygon of points [x, y] as numbers x, y, x, y, ...

    >>> _flat([[1, 2], [3, 4]]), _flat([1, 2, 3, 4])
    ([1, 2, 3, 4], [1, 2, 3, 4])
    """
    is_nested = isinstance(part, list) and bool(part) and all(map(_is_point, part))
    return [*itertools.chain.from_iterable(part)] if is_nested else part


def _rle(value: dict[str, Any], size_hw: Size) -> Shape | Fault:
    size = value.get("size")
    sides = [whole(side) for side in size] if isinstance(size, list) else None
    if sides != [*size_hw]:
        turned = ": its height and width are swapped" if sides == [*size_hw][::-1] else ""
        return Fault("mask-size", f"its RLE has the size {size}, its image {[*size_hw]} (height, width){turned}")
    runs, fault = _runs(value["counts"]), None
    fault = "its compressed RLE is none" if runs is None else runs_fault(runs, size_hw)
    if fault and isinstance(value["counts"], list):
        again = _runs_of_bytes(value["counts"])
        if again is not None and not runs_fault(again, size_hw):
            return Shape([], again)
    return Fault("invalid-mask", fault) if fault else Shape([], runs or [])


def _runs(counts: Any) -> Any:
    """Runs, of compressed counts too; None for a text that is none."""
    if isinstance(counts, list):
        numbers = [whole(run) for run in counts]
        return counts if None in numbers else numbers
    if not isinstance(counts, str):
        return counts
    text = counts.strip()
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
