"""Makes masks of single queries, ``M > level``, as runs. No mask is ever dense, and only its box is read.

Exact because bilinear interpolation is a convex combination: a pixel is above the level only if one of the logits under
it is, and between two neighbors in a column the values rise or fall steadily, so they cross the level at most once.

K masks, (h, w) logits, H output rows; a column is a column of the output.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad, threshold

from m2f_batch.vision.masks.frame import Frame, Steps, content_planes, spans_of, steps_of
from m2f_batch.vision.masks.resample import grow
from m2f_batch.vision.masks.rle import MaskCode, encode_edges

# numbers held at once: on CPU what stays in the cache, on a GPU what fills it
AT_ONCE = {"cpu": 1 << 17, "cuda": 1 << 25}
NO_EDGES: NDArray[np.int64] = np.empty(0, np.int64)
NEVER = -1e4  # a logit whose sigmoid is 0


class Shape(NamedTuple):
    """One query's mask, and the mean sigmoid inside it (0 when it is empty)."""

    code: MaskCode
    mean: float


def shapes_of(mask_logits: Tensor, frame: Frame, level: float) -> list[Shape]:
    """The shape of each query in ``mask_logits`` [K, h, w]."""
    shapes = [Shape(encode_edges(NO_EDGES, frame.output), 0.0)] * len(mask_logits)
    for box in _boxes(mask_logits, frame, level):
        sums = box.sums()
        for query, edges, total in zip(box.queries, box.edges(), sums, strict=True):
            code = encode_edges(edges, frame.output)
            shapes[query] = Shape(code, total / code.area if code.area else 0.0)
    return shapes


def codes_of_masks(mask_logits: Tensor, frame: Frame, level: float) -> list[MaskCode]:
    """The mask of each query in ``mask_logits`` [K, h, w], which may be empty."""
    codes = [encode_edges(NO_EDGES, frame.output)] * len(mask_logits)
    for box in _boxes(mask_logits, frame, level):
        for query, edges in zip(box.queries, box.edges(), strict=True):
            codes[query] = encode_edges(edges, frame.output)
    return codes


def areas_of(mask_logits: Tensor, frame: Frame, level: float) -> NDArray[np.int64]:
    """Pixels of each query's mask in ``mask_logits`` [K, h, w]."""
    areas = np.zeros(len(mask_logits), np.int64)
    for box in _boxes(mask_logits, frame, level):
        areas[box.queries] = [int((edges[1::2] - edges[0::2]).sum()) for edges in box.edges()]
    return areas


class _Box(NamedTuple):
    """Some queries in the box around their masks: [K, columns, n], full size across, and n content rows down."""

    queries: list[int]
    planes: Tensor
    level: float
    down: Steps
    rows: range
    columns: range

    def edges(self) -> list[NDArray[np.int64]]:
        """The places where each mask begins and ends in turn, column-major over the whole output."""
        return _edges(self.planes, self.level, self.down, self.rows, self.columns)

    def sums(self) -> list[float]:
        """The sum of the sigmoids above the level, per mask."""
        return _sums(self.planes.transpose(1, 2).contiguous(), self.level, self.down, self.rows)


def _boxes(mask_logits: Tensor, frame: Frame, level: float) -> Iterator[_Box]:
    down, across = steps_of(mask_logits, frame)
    above = mask_logits > level
    boxes = [
        (down.reached_by(rows), across.reached_by(columns))
        for rows, columns in zip(spans_of(above.any(2)), spans_of(above.any(1)), strict=True)
    ]
    for queries, rows, columns in _groups(boxes, mask_logits.device, len(down.output.low)):
        places = torch.tensor(queries, device=mask_logits.device)
        content = content_planes(mask_logits, down, across, rows, columns, places)
        planes = grow(content, across.output, columns, across.output.reads(columns).start)
        yield _Box(queries, planes, level, down, rows, columns)


def _groups(
    boxes: list[tuple[range, range]], device: torch.device, height: int
) -> Iterator[tuple[list[int], range, range]]:
    """Queries worked on together, with the box (rows, columns) around them: one on CPU, many on a GPU."""
    wanted = [query for query, (rows, columns) in enumerate(boxes) if len(rows) and len(columns)]
    size = 1
    if device.type != "cpu" and wanted:
        size = max(1, AT_ONCE["cuda"] // (height * max(len(boxes[query][1]) for query in wanted)))
    for at in range(0, len(wanted), size):
        queries = wanted[at : at + size]
        rows, columns = ([boxes[query][axis] for query in queries] for axis in (0, 1))
        yield queries, _around(rows), _around(columns)


def _around(spans: list[range]) -> range:
    return range(min(span.start for span in spans), max(span.stop for span in spans))


def _edges(planes: Tensor, level: float, down: Steps, rows: range, columns: range) -> list[NDArray[np.int64]]:
    height = len(down.output.low)
    firsts, weights = _rows_between(down, rows, planes)
    inside = pad(planes > level, (1, 1))
    mask, column, place = (inside[..., 1:] != inside[..., :-1]).nonzero().unbind(1)
    positions = torch.empty_like(place)
    step = max(1, AT_ONCE[planes.device.type] // weights.shape[1])
    for at in range(0, len(place), step):
        part = slice(at, at + step)
        k, x, i = mask[part], column[part], place[part]
        above, below = planes[k, x, (i - 1).clamp(min=0)], planes[k, x, i.clamp(max=planes.shape[2] - 1)]
        value = torch.lerp(above[:, None], below[:, None], weights[i])
        before = (value > level) == inside[k, x, i][:, None]  # NaN weights, where there is no row, are never above
        present = weights[i] >= 0
        positions[part] = (columns.start + x) * height + firsts[i] + (before & present).sum(1)
    counts = torch.bincount(mask, minlength=planes.shape[0]).tolist()
    return np.split(positions.cpu().numpy(), np.cumsum(counts)[:-1])


def _rows_between(down: Steps, rows: range, planes: Tensor) -> tuple[Tensor, Tensor]:
    """The output rows between two content rows, for the n + 1 gaps around n of them: first [n + 1], weights [n + 1, r].

    Nothing lies before the first and behind the last, whose edges are those of ``rows``. Missing rows weigh NaN.
    """
    axis = down.output
    content = axis.reads(rows)
    bounds = np.clip(np.searchsorted(axis.low, np.arange(content.start, content.stop)), rows.start, rows.stop)
    firsts = np.concatenate([[rows.start], bounds[:-1], [rows.stop]])
    counts = np.concatenate([[0], np.diff(bounds), [0]])
    most = int(counts.max(initial=0)) or 1
    offsets = np.arange(most)
    places = np.minimum(firsts[:, None] + offsets, len(axis.low) - 1)
    weights = axis.weight[torch.from_numpy(places).to(planes.device)]
    missing = torch.from_numpy(offsets >= counts[:, None]).to(planes.device)
    return torch.from_numpy(firsts).to(planes.device), weights.masked_fill(missing, torch.nan)


def _sums(planes: Tensor, level: float, down: Steps, rows: range) -> list[float]:
    """The sum of the sigmoids above the level, per mask of ``planes`` [K, n, columns]."""
    first_row = down.output.reads(rows).start
    total = torch.zeros(planes.shape[0], dtype=torch.float64, device=planes.device)
    step = max(1, AT_ONCE[planes.device.type] // (planes.shape[0] * planes.shape[2]))
    for at in range(rows.start, rows.stop, step):
        values = grow(planes, down.output, range(at, min(at + step, rows.stop)), first_row)
        total += threshold(values, level, NEVER, inplace=True).sigmoid_().sum((1, 2))
    return total.tolist()
