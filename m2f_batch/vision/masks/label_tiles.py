"""Makes label maps, one label per output pixel, tile by tile. The tile bounds memory, and work is what can win in it.

Bilinear interpolation is a convex combination, so the highest and the lowest logit under a tile bound all values in it:
what cannot reach another's lowest value anywhere in the tile is left out before anything grows. Exact.

K masks or C classes, (h, w) logits, (H, W) output. Tiles are [columns, rows], so that strips of them are column-major.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m2f_batch.vision.masks.frame import Steps
from m2f_batch.vision.masks.resample import grow
from m2f_batch.vision.masks.rle import MaskCode, encode_edges

# edges of a tile in pixels of the content and of the output: small on CPU to prune well, large on a GPU to fill it
EDGES = {"cpu": (64, 192), "cuda": (512, 1024)}
ROUNDING = 1e-5  # bounds are met up to rounding, relative


class Tile(NamedTuple):
    """A part of the output, with its place in the grid of tiles."""

    place: tuple[int, int]
    rows: range
    columns: range


class ClassLabels(NamedTuple):
    """Runs of the winning class per pixel in column-major order, and the sum of its shares per class."""

    starts: NDArray[np.int64]
    labels: NDArray[np.int64]
    shares: NDArray[np.float64]


class Painter(Protocol):
    """Finds the winning classes of tiles, and sums their shares [C] (float64, on the device) until the end."""

    shares: Tensor

    def paint(self, tile: Tile) -> Tensor | int:
        """Labels of a tile, int16 [columns, rows], or the one label that all of it has."""
        ...


class Bounds(NamedTuple):
    """The lowest and the highest logit under each tile, [K, tiles down, tiles across]."""

    low: Tensor
    high: Tensor


def bounds_of(mask_logits: Tensor, down: Steps, across: Steps) -> Bounds:
    """Bounds of ``M`` in every tile of the output."""
    rows, columns = ([steps.logits_read(span) for span in _cuts(steps, mask_logits.device)] for steps in (down, across))
    low = torch.stack([mask_logits[:, span.start : span.stop].amin(1) for span in rows], 1)
    high = torch.stack([mask_logits[:, span.start : span.stop].amax(1) for span in rows], 1)
    return Bounds(
        torch.stack([low[..., span.start : span.stop].amin(-1) for span in columns], -1),
        torch.stack([high[..., span.start : span.stop].amax(-1) for span in columns], -1),
    )


def _cuts(steps: Steps, device: torch.device) -> list[range]:
    size, content = len(steps.output.low), len(steps.content.low)
    in_content, in_output = EDGES[device.type]
    step = max(1, min(in_output, in_content * size // content))
    return [range(at, min(at + step, size)) for at in range(0, size, step)]


def grow_tile(planes: Tensor, down: Steps, across: Steps, tile: Tile) -> Tensor:
    """The content under a tile to the size of the tile: [K, content columns, content rows] to [K, columns, rows]."""
    tall = grow(planes.transpose(1, 2).contiguous(), down.output, tile.rows, down.output.reads(tile.rows).start)
    return grow(tall.transpose(1, 2).contiguous(), across.output, tile.columns, across.output.reads(tile.columns).start)


def contenders(low: Tensor, high: Tensor) -> Tensor:
    """Of lowest and highest values [K, ...], which of the K may be the greatest somewhere: bool [K, ...]."""
    return high * (1 + ROUNDING) >= low.amax(0)


def highest(planes: Tensor, names: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The highest of K planes and its name, the first of equal ones: [K, ...] to [...] and int16 [...]."""
    best = planes[0]
    name = torch.full(best.shape, names[0], dtype=torch.int16, device=best.device)
    for plane, its_name in zip(planes[1:], names[1:], strict=True):
        name.masked_fill_(plane > best, its_name)
        best = torch.maximum(best, plane)
    return best, name


class LabelRuns:
    """Runs of equal labels of the whole output in column-major order, made strip by strip from the left."""

    def __init__(self, down: Steps, across: Steps, device: torch.device) -> None:
        self._across, self._height = across, len(down.output.low)
        self._rows, self._strips = _cuts(down, device), list(enumerate(_cuts(across, device)))
        self._starts: list[NDArray[np.int64]] = []
        self._labels: list[NDArray[np.int64]] = []

    @property
    def reads(self) -> range | None:
        """Columns of the content that the next strip is made of, and None after the last strip."""
        return self._across.output.reads(self._strips[0][1]) if self._strips else None

    def paint_next(self, paint: Callable[[Tile], Tensor | int], device: torch.device) -> None:
        """Make the next strip.

        ``paint`` gives the labels of one tile, int16 [columns, rows], or the one label that all of it has.
        """
        x, columns = self._strips[0]
        strip = torch.empty((len(columns), self._height), dtype=torch.int16, device=device)
        for y, rows in enumerate(self._rows):
            strip[:, rows.start : rows.stop] = paint(Tile((y, x), rows, columns))
        flat = strip.flatten()
        begins = (flat[1:] != flat[:-1]).nonzero().flatten() + 1
        begins = torch.cat([begins.new_zeros(1), begins])
        self._starts.append(begins.cpu().numpy() + columns.start * self._height)
        self._labels.append(flat[begins].cpu().numpy().astype(np.int64))
        del self._strips[0]

    def made(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The beginning of each run, and its label."""
        return np.concatenate(self._starts), np.concatenate(self._labels)


def label_runs(
    down: Steps, across: Steps, device: torch.device, paint: Callable[[Tile], Tensor | int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All runs of an output whose content is there: where each begins, and its label."""
    runs = LabelRuns(down, across, device)
    while runs.reads is not None:
        runs.paint_next(paint, device)
    return runs.made()


def codes_of(
    starts: NDArray[np.int64], labels: NDArray[np.int64], output: tuple[int, int]
) -> Iterator[tuple[int, MaskCode]]:
    """Each label with the mask of its runs, in the order of the labels. Labels below 0 are no mask."""
    ends = np.append(starts[1:], output[0] * output[1])
    order = np.argsort(labels, kind="stable")
    values, firsts = np.unique(labels[order], return_index=True)
    for value, own in zip(values.tolist(), np.split(order, firsts[1:]), strict=True):
        if value >= 0:
            yield value, encode_edges(np.stack([starts[own], ends[own]], 1).flatten(), output)
