"""Cuts the input of a run into pieces of a few units. One piece is one task that fetches, and is lost with it.

Ray makes all that a task yielded again when its process died. A task of one unit costs the driver most, and a task of
many costs most when it is killed, so a piece is small and bounded, whatever the run is.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from m2f_batch.runs.plan import UNIT_SCHEMA, Units

MAX_BLOCKS = 2000  # of input: each is in Ray's store from the start, and costs the driver a millisecond
UNITS_PER_PIECE = 2  # at most
_PIECE_SCHEMA = pa.schema([("units", pa.list_(pa.struct(list(UNIT_SCHEMA))))])


class Blocks:
    """Tables of pieces, a row each, in the order of the units. Pieces hold one unit as long as there are few units.

    With more units than ``MAX_BLOCKS`` pieces can hold, a block holds several pieces. Each is made when it is come to,
    anew each time, so that the driver never holds all: of 10^7 images they are as large as the listing.
    """

    def __init__(self, units: Units) -> None:
        self._units = units
        self._size = max(1, min(UNITS_PER_PIECE, -(-len(units) // MAX_BLOCKS)))
        self._pieces = max(1, -(-len(units) // (self._size * MAX_BLOCKS)))

    @property
    def are_pieces(self) -> bool:
        """True where each block is one piece."""
        return self._pieces == 1

    def __iter__(self) -> Iterator[pa.Table]:
        per_block = self._size * self._pieces
        for at in range(0, len(self._units), per_block):
            yield _pieces(self._units.part(at, per_block), self._size)


def apart(block: pa.Table) -> pa.Table:
    """Change nothing: what it is given as one block leaves it row by row. See ``set_data_context``."""
    return block


def each_unit(piece: pa.Table, *, step: Callable[..., pa.Table], **options: object) -> Iterator[pa.Table]:
    """Do ``step`` to each unit of one piece, one after the other."""
    (units,) = (chunk for chunk in piece["units"].chunks if len(chunk))
    table = pa.Table.from_batches([pa.RecordBatch.from_struct_array(units.flatten())]).cast(UNIT_SCHEMA)
    for at in range(table.num_rows):
        yield step(table.slice(at, 1), **options)


def _pieces(units: pa.Table, size: int) -> pa.Table:
    """Return a table with ``size`` units in each row."""
    (rows,) = units.to_struct_array().chunks
    bounds = np.append(np.arange(0, len(rows), size), len(rows)).astype(np.int32)
    nested = pa.ListArray.from_arrays(pa.array(bounds), rows).cast(_PIECE_SCHEMA.field("units").type)
    return pa.Table.from_arrays([nested], schema=_PIECE_SCHEMA)
