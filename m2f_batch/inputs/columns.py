"""Makes and orders Arrow string columns for listings of any length, in chunks so that Python objects stay few."""

import bisect
import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_T = TypeVar("_T")

CHUNK = 1 << 15  # rows that are Python objects at a time
TEXT = pa.large_string()  # while a listing is made: from more than 2 GiB of pa.string() Arrow takes no rows
BLOCK = 1 << 17  # rows that are joined, or compared, at a time: pa.string() of them is far from 2 GiB


def chunks_of(items: Iterable[_T]) -> Iterator[list[_T]]:
    """Yields ``items``, CHUNK at a time."""
    left = iter(items)
    while chunk := [*itertools.islice(left, CHUNK)]:
        yield chunk


def text_column(texts: Iterable[str]) -> pa.Array:
    """Makes a column of TEXT. Raises UnicodeEncodeError for what is no Unicode: half of a surrogate pair."""
    return joined(pa.array(chunk, TEXT) for chunk in chunks_of(texts))


def joined(parts: Iterable[pa.Array]) -> pa.Array:
    """Joins parts of a column of TEXT."""
    return pa.concat_arrays([pa.array([], TEXT), *parts])


def first_of_each(texts: pa.Array) -> NDArray[np.int64]:
    """Returns the rows of a column in the order of its texts, by code point, and of equal ones the first row only.

    >>> first_of_each(pa.array(["b", "a", "b"])).tolist()
    [1, 0]
    """
    order = pc.sort_indices(texts)  # stable. The order of UTF-8 bytes is that of code points
    ordered = texts.take(order)
    is_first = np.ones(len(order), bool)
    is_first[1:] = pc.not_equal(ordered[1:], ordered[:-1]).to_numpy(zero_copy_only=False)
    return order.to_numpy().astype(np.int64)[is_first]


def taken(texts: pa.Array, rows: NDArray[np.int64]) -> pa.ChunkedArray:
    """Takes these rows of a column of TEXT, in this order, as pa.string() in chunks of CHUNK rows."""
    parts = [texts.take(pa.array(rows[first : first + CHUNK])) for first in range(0, len(rows), CHUNK)]
    return pa.chunked_array([part.cast(pa.string()) for part in parts], pa.string())


def picked(column: pa.ChunkedArray, rows: NDArray[np.int64]) -> pa.Array:
    """Takes these rows of a column in chunks, in this order. Arrow's own ``take`` would join all chunks for it.

    >>> picked(pa.chunked_array([["a", "b"], [], ["c"]]), np.array([2, 0])).to_pylist()
    ['c', 'a']
    """
    ends = np.cumsum([len(chunk) for chunk in column.chunks], dtype=np.int64)
    chunk_of = np.searchsorted(ends, rows, side="right")
    order = np.argsort(chunk_of, kind="stable")
    parts, first = [pa.array([], column.type)], 0
    for number, count in zip(*np.unique(chunk_of, return_counts=True), strict=True):
        chunk = column.chunk(int(number))
        parts.append(chunk.take(pa.array(rows[order[first : first + count]] - (ends[number] - len(chunk)))))
        first += count
    joined = pa.concat_arrays(parts)
    if (order[1:] > order[:-1]).all():
        return joined
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return joined.take(pa.array(back))


def picked_apart(column: pa.ChunkedArray, rows: NDArray[np.int64]) -> pa.ChunkedArray:
    """Takes these rows of a column, in this order and in chunks of CHUNK rows, for text of any length in all.

    >>> picked_apart(pa.chunked_array([["a", "b"], [], ["c"]]), np.array([2, 0])).to_pylist()
    ['c', 'a']
    """
    if not (pa.types.is_string(column.type) or pa.types.is_binary(column.type)):
        return column.take(pa.array(rows))
    parts = [picked(column, rows[first : first + CHUNK]) for first in range(0, len(rows), CHUNK)]
    return pa.chunked_array(parts, column.type)


def shared(some: pa.ChunkedArray, others: pa.ChunkedArray) -> int:
    """Counts the texts in both columns, each in order and with none twice, BLOCK of each at a time.

    >>> shared(pa.chunked_array([["a", "b", "d"]]), pa.chunked_array([["b"], ["c", "d"]]))
    2
    """
    count = first = other = 0
    while first < len(some) and other < len(others):
        mine, theirs = some.slice(first, BLOCK), others.slice(other, BLOCK)
        end = min(mine[-1].as_py(), theirs[-1].as_py())
        mine, theirs = mine.slice(0, _up_to(mine, end)), theirs.slice(0, _up_to(theirs, end))
        if len(mine) and len(theirs):
            count += pc.sum(pc.is_in(mine, value_set=theirs.combine_chunks())).as_py()
        first, other = first + len(mine), other + len(theirs)
    return count


def _up_to(texts: pa.ChunkedArray, end: str) -> int:
    return bisect.bisect_right(range(len(texts)), end, key=lambda row: texts[row].as_py())
