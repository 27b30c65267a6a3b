"""TIFF files of any layout, written with struct: known samples for tests of what reads them."""

import itertools
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NONE, LZW, DEFLATE, PACKBITS = 1, 5, 8, 32773
_SHORT, _LONG, _LONG8 = 3, 4, 16


@dataclass(frozen=True)
class Layout:
    """How samples lie in a file. ``part``: rows of a strip, or (rows, columns) of a tile; None: one strip."""

    order: str = "<"
    is_big: bool = False
    planar: bool = False
    compression: int = NONE
    predictor: bool = False
    part: int | tuple[int, int] | None = None
    bits: int | None = None  # of a sample, where it is no whole number of bytes
    photometric: int | None = None
    extra: Sequence[int] = ()
    palette: Sequence[int] = ()
    tags: Sequence[tuple[int, int, Sequence[int]]] = ()  # tag, type, numbers


def tiff(samples: NDArray[Any], layout: Layout) -> bytes:
    """A TIFF of samples [H, W, C] of any whole or floating type."""
    height, width, channels = samples.shape
    bits = layout.bits or samples.dtype.itemsize * 8
    parts = [_encoded(block, bits, layout) for block in _blocks(samples, layout)]
    colors = channels - len(layout.extra)
    photometric = {1: 1, 3: 2, 4: 5}[colors] if layout.photometric is None else layout.photometric
    kind = {"u": 1, "b": 1, "i": 2, "f": 3}[samples.dtype.kind]
    head = 16 if layout.is_big else 8
    places = [head + sum(len(part) for part in parts[:at]) for at in range(len(parts))]
    wide = _LONG8 if layout.is_big else _LONG
    tags: dict[int, tuple[int, Sequence[int]]] = {
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [bits] * channels),
        259: (_SHORT, [layout.compression]),
        262: (_SHORT, [photometric]),
        277: (_SHORT, [channels]),
        284: (_SHORT, [2 if layout.planar else 1]),
        339: (_SHORT, [kind] * channels),
    }
    if layout.predictor:
        tags[317] = _SHORT, [2]
    if layout.extra:
        tags[338] = _SHORT, layout.extra
    if layout.palette:
        tags[320] = _SHORT, layout.palette
    if isinstance(layout.part, tuple):
        tags |= {322: (_LONG, [layout.part[1]]), 323: (_LONG, [layout.part[0]])}
        tags |= {324: (wide, places), 325: (wide, [len(part) for part in parts])}
    else:
        tags |= {278: (_LONG, [layout.part or height])}
        tags |= {273: (wide, places), 279: (wide, [len(part) for part in parts])}
    tags |= {tag: (type_, numbers) for tag, type_, numbers in layout.tags}
    return _file(b"".join(parts), head, tags, layout)


def _blocks(samples: NDArray[Any], layout: Layout) -> Iterator[NDArray[Any]]:
    """What is stored one behind the other, each [rows, columns, channels]; tiles are filled up with zeros."""
    height, width, channels = samples.shape
    planes = [samples[..., at : at + 1] for at in range(channels)] if layout.planar else [samples]
    rows, columns = layout.part if isinstance(layout.part, tuple) else (layout.part or height, width)
    for plane, y, x in itertools.product(planes, range(0, height, rows), range(0, width, columns)):
        block = plane[y : y + rows, x : x + columns]
        if isinstance(layout.part, tuple):
            block = np.pad(block, ((0, rows - block.shape[0]), (0, columns - block.shape[1]), (0, 0)))
        yield block


def _encoded(block: NDArray[Any], bits: int, layout: Layout) -> bytes:
    if layout.predictor:
        block = np.concatenate([block[:, :1], np.diff(block, axis=1)], axis=1)  # wraps, as it should
    if bits % 8:
        rows = block.reshape(len(block), -1)
        places = (rows[..., None].astype(np.int64) >> np.arange(bits - 1, -1, -1)) & 1
        data = np.packbits(places.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()
    else:
        data = block.astype(block.dtype.newbyteorder(layout.order)).tobytes()
    match layout.compression:
        case 8:
            return zlib.compress(data)
        case 32773:
            literal = [data[at : at + 128] for at in range(0, len(data), 128)]
            return b"".join(bytes([len(some) - 1]) + some for some in literal)
        case 5:
            return _lzw(data)
    return data


def _lzw(data: bytes) -> bytes:
    """Codes of 9 bits and a clear code before the tenth bit would be needed."""
    codes = [256]
    table = {bytes([value]): value for value in range(256)}
    known = b""
    for value in data:
        longer = known + bytes([value])
        if longer in table:
            known = longer
            continue
        codes.append(table[known])
        table[longer] = len(table) + 2
        known = bytes([value])
        if len(table) + 2 >= 510:
            codes += [table[known], 256]
            table, known = {bytes([one]): one for one in range(256)}, b""
    codes += [table[known]] if known else []
    text = "".join(f"{code:09b}" for code in [*codes, 257])
    text = text.ljust(-(-len(text) // 8) * 8, "0")
    return int(text, 2).to_bytes(len(text) // 8, "big")


def _file(data: bytes, head: int, tags: dict[int, tuple[int, Sequence[int]]], layout: Layout) -> bytes:
    order, letter = layout.order, {_SHORT: "H", _LONG: "I", _LONG8: "Q"}
    wide, inline = ("Q", 8) if layout.is_big else ("I", 4)
    data += b"\0" * (len(data) % 2)
    at = head + len(data)
    count = struct.pack(order + ("Q" if layout.is_big else "H"), len(tags))
    place, entries, behind = at + len(count) + (12 if not layout.is_big else 20) * len(tags) + inline, b"", b""
    for tag, (kind, numbers) in sorted(tags.items()):
        value = struct.pack(f"{order}{len(numbers)}{letter[kind]}", *numbers)
        if len(value) > inline:
            value, behind = struct.pack(order + wide, place + len(behind)), behind + value + b"\0" * (len(value) % 2)
        entries += struct.pack(f"{order}HH{wide}", tag, kind, len(numbers)) + value.ljust(inline, b"\0")
    mark = b"II" if order == "<" else b"MM"
    first = struct.pack(f"{order}HHHQ", 43, 8, 0, at) if layout.is_big else struct.pack(f"{order}HI", 42, at)
    return mark + first + data + count + entries + b"\0" * inline + behind
