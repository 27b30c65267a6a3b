"""Columns of text as long as a listing: made, ordered and taken from by Arrow, with few Python objects at a time."""

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


def chunks_of(items: Iterable[_T]) -> Iterator[list[_T]]:
    """``items``, CHUNK at a time."""
    left = iter(items)
    while chunk := [*itertools.islice(left, CHUNK)]:
        yield chunk


def text_column(texts: Iterable[str]) -> pa.Array:
    """A column of TEXT. Raises UnicodeEncodeError for what is no Unicode: half of a surrogate pair."""
    return joined(pa.array(chunk, TEXT) for chunk in chunks_of(texts))


def joined(parts: Iterable[pa.Array]) -> pa.Array:
    """Parts of a column of TEXT as one."""
    return pa.concat_arrays([pa.array([], TEXT), *parts])


def first_of_each(texts: pa.Array) -> NDArray[np.int64]:
    """The rows of a column in the order of its texts, by code point; of equal ones the first row only.

    >>> first_of_each(pa.array(["b", "a", "b"])).tolist()
    [1, 0]
    """
    order = pc.sort_indices(texts)  # stable; the order of UTF-8 bytes is that of code points
    ordered = texts.take(order)
    is_first = np.ones(len(order), bool)
    is_first[1:] = pc.not_equal(ordered[1:], ordered[:-1]).to_numpy(zero_copy_only=False)
    return order.to_numpy().astype(np.int64)[is_first]


def taken(texts: pa.Array, rows: NDArray[np.int64]) -> pa.ChunkedArray:
    """These rows of a column of TEXT, in this order, as pa.string() in chunks of CHUNK rows."""
    parts = [texts.take(pa.array(rows[first : first + CHUNK])) for first in range(0, len(rows), CHUNK)]
    return pa.chunked_array([part.cast(pa.string()) for part in parts], pa.string())
