"""Puts right what Pillow gets wrong of TIFF before it decodes: directories it misreads, layouts it takes for others.

Only files that it would refuse, or decode to other pixels than they hold, are touched. No pixel is decoded here.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # types of whole numbers, as struct has them
_WIDE = (16, 17, 18)  # types of BigTIFF alone
_SHORT, _LONG = 3, 4
_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA, _FORMAT = 258, 262, 277, 284, 338, 339
_PLACES = ((273, 279), (324, 325))  # offsets and byte counts: of strips, of tiles
_POINTERS = (330, 34665, 34853, 40965)  # to further directories, which are as wide as the file's own
_COLORS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # samples of a pixel by photometric interpretation, without extra
_MULTIPLIED = 1  # alpha, by which the colors were multiplied
_ALPHA = (_MULTIPLIED, 2)  # kinds of extra samples that are one
# libtiff hands samples out in the order of the machine; Pillow knows that of some modes only
_NATIVE = {"F;32F": "F;32NF", "F;32BF": "F;32NF", "I;16S": "I;16NS", "I;16BS": "I;16NS"}
_NATIVE |= {"I;32S": "I;32NS", "I;32BS": "I;32NS"}

_Entry = tuple[int, int, bytes]  # type, count, value in the byte order of the file


@dataclass(frozen=True)
class _Directory:
    """The first directory of a file."""

    order: str
    is_big: bool
    entries: dict[int, _Entry]

    def numbers(self, tag: int) -> tuple[int, ...]:
        """The whole numbers of a tag, or none where it is missing or of another type."""
        kind, count, value = self.entries.get(tag, (0, 0, b""))
        return struct.unpack(f"{self.order}{count}{_WHOLE[kind]}", value) if kind in _WHOLE else ()

    def put(self, tag: int, values: Sequence[int], kind: int = _LONG) -> None:
        """Set a tag, or drop it where there are no values."""
        if values:
            self.entries[tag] = (kind, len(values), struct.pack(f"{self.order}{len(values)}{_WHOLE[kind]}", *values))
        else:
            self.entries.pop(tag, None)


def mended(data: bytes) -> bytes:
    """A TIFF with a directory appended that Pillow reads right. Other TIFFs stay as they are.

    - A big-endian BigTIFF gets a directory of the classic kind: Pillow finds no size in its own.
    - Planes of extra samples that mean nothing are left out: Pillow takes their number for that of the colors.
    - 8-bit gray and alpha in planes become red, green, blue (three times the gray plane) and alpha: Pillow puts the
      second plane into a band that nobody reads.
    """
    try:
        directory = _read(data)
        if directory is None:
            return data
        is_changed = _drop_planes(directory)
        if not is_changed and not (directory.is_big and directory.order == ">"):
            return data
        return _with_directory(data, directory)
    except (struct.error, IndexError, KeyError, OverflowError):  # a damaged file: Pillow says how
        return data


def correct_tiles(image: Any) -> None:
    """Have an opened TIFF, not loaded so far, decoded right. ``image`` is Pillow's.

    16-bit planes and multiplied colors without compression go through libtiff: Pillow's own reader takes the bytes of
    the former for 8-bit samples, and refuses the latter. What libtiff hands out is in the machine's byte order,
    whatever the file's.
    """
    tags = getattr(image, "tag_v2", None)
    if not tags or not image.tile:
        return
    first = image.tile[0]
    if image.use_load_libtiff:
        if first.args[0] in _NATIVE:
            image.tile = [first._replace(args=(_NATIVE[first.args[0]], *first.args[1:]))]
    elif tags.get(_PLANAR) == 2 and image.mode in ("RGB", "RGBA", "CMYK") and _is_misread(tags):
        width, height = tags[256], tags[257]
        arguments = (image.mode + (";16N" if 16 in tags[_BITS] else ""), False, tags.offset)
        image.tile = [type(first)("libtiff", (0, 0, width, height), 0, arguments)]
        image.use_load_libtiff = True


def _is_misread(tags: Any) -> bool:
    return set(tags.get(_BITS, ())) == {16} or tags.get(_EXTRA, ())[:1] == (_MULTIPLIED,)


def tags_of_samples(image: Image.Image) -> dict[int, Any]:
    """The tags of an opened TIFF about its samples, as far as they can be read. Nothing of other formats."""
    tags = getattr(image, "tag_v2", None) or {}
    return {tag: value for tag in (_BITS, _PHOTOMETRIC, _PLANAR, _FORMAT) if (value := tags.get(tag)) is not None}


def true_samples(image: Image.Image, tags: dict[int, Any]) -> Image.Image:
    """A loaded TIFF whose samples Pillow took for others, with the values of the file.

    ``tags`` are those of ``tags_of_samples`` before it was loaded. Signed bytes come as unsigned (of Lab where it is in
    planes), and unsigned 32-bit samples as signed.
    """
    kinds, bits = set(tags.get(_FORMAT, (1,))), set(tags.get(_BITS, ()))
    if tags.get(_PLANAR) == 2 and image.mode == "LAB":
        light, *others = image.split()
        right = Image.merge("LAB", [light, *(plane.point([value ^ 128 for value in range(256)]) for plane in others)])
    elif image.mode == "L" and kinds == {2} and bits == {8}:
        values = np.asarray(image).view(np.int8)
        right = Image.fromarray(values.astype(np.int32)) if values.size and values.min() < 0 else image
    elif image.mode == "I" and kinds == {1} and bits == {32}:
        samples = np.asarray(image)
        is_wrapped = samples.size and samples.min() < 0
        right = Image.fromarray(samples.view(np.uint32).astype(np.float32)) if is_wrapped else image
    else:
        return image
    right.info = image.info
    return right


def layout(data: bytes) -> str:
    """The samples of a TIFF in words, for the message that refuses it. Empty for a file that is too damaged."""
    try:
        directory = _read(data)
    except (struct.error, IndexError):
        directory = None
    if directory is None:
        return ""
    bits, kinds, extra = (directory.numbers(tag) for tag in (_BITS, _FORMAT, _EXTRA))
    samples, photometric = directory.numbers(_SAMPLES) or (1,), directory.numbers(_PHOTOMETRIC) or (0,)
    kind = {2: "signed ", 3: "float "}.get(kinds[0] if kinds else 1, "")
    order = "little" if directory.order == "<" else "big"
    return (
        f"{samples[0]} {kind}samples of {bits[0] if bits else 1} bits, photometric interpretation {photometric[0]}, "
        f"{len(extra)} of them extra, {order}-endian"
    )


def _read(data: bytes) -> _Directory | None:
    """The first directory. None for a header that is none, and for values that lie upon each other."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return None
    (version,) = struct.unpack_from(f"{order}H", data, 2)
    if version not in (42, 43):
        return None
    is_big = version == 43
    (at,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", data, 8 if is_big else 4)
    head, entry, inline = ("Q", "HHQ", 8) if is_big else ("H", "HHI", 4)
    (count,) = struct.unpack_from(order + head, data, at)
    at += struct.calcsize(order + head)
    entries, read = {}, 0
    for _ in range(min(count, 65535)):
        tag, kind, length = struct.unpack_from(order + entry, data, at)
        at += struct.calcsize(order + entry)
        size, place = _SIZES.get(kind, 0) * length, at
        if size > inline:
            (place,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", data, at)
        at += inline
        value = data[place : place + size]
        if size and len(value) == size:
            entries[tag] = (kind, length, value)
            read += size
        if read > len(data):  # thousands of tags could each name the whole file
            return None
    return _Directory(order, is_big, entries)


def _drop_planes(directory: _Directory) -> bool:
    """Leave out planes that say nothing, and take gray and alpha for RGB and alpha. Returns whether it did."""
    (photometric, samples, planar) = (
        (directory.numbers(tag) or (default,))[0] for tag, default in ((_PHOTOMETRIC, 0), (_SAMPLES, 1), (_PLANAR, 1))
    )
    extra, bits = directory.numbers(_EXTRA), directory.numbers(_BITS)
    colors = _COLORS.get(photometric)
    if planar != 2 or colors is None or not extra or samples != colors + len(extra):
        return False
    alpha = [at for at, kind in enumerate(extra) if kind in _ALPHA][:1]  # the first, if there is one
    kept = [*range(colors), *(colors + at for at in alpha)]
    if photometric == 1 and len(kept) == 2 and set(bits) == {8}:
        kept = [0, 0, 0, 1]
        directory.put(_PHOTOMETRIC, [2], _SHORT)
    elif len(kept) == samples:
        return False
    for offsets, counts in _PLACES:
        for tag in (offsets, counts):
            places = directory.numbers(tag)
            each = len(places) // samples
            directory.put(tag, [place for plane in kept for place in places[plane * each : (plane + 1) * each]])
    directory.put(_SAMPLES, [len(kept)], _SHORT)
    directory.put(_BITS, [bits[0]] * len(kept), _SHORT)
    directory.put(_FORMAT, list((directory.numbers(_FORMAT) or (1,))[:1]) * len(kept), _SHORT)
    directory.put(_EXTRA, [extra[at] for at in alpha], _SHORT)
    return True


def _with_directory(data: bytes, directory: _Directory) -> bytes:
    """The file with another, classic directory at its end, which names no other pages and no further directories."""
    order, at = directory.order, len(data) + len(data) % 2
    left = {tag: entry for tag, entry in directory.entries.items() if not (directory.is_big and tag in _POINTERS)}
    head = struct.pack(f"{order}H", len(left))
    place, behind = at + len(head) + 12 * len(left) + 4, b""
    for tag, (kind, count, value) in sorted(left.items()):
        if kind in _WIDE:
            kind, value = _LONG, struct.pack(f"{order}{count}I", *struct.unpack(f"{order}{count}Q", value))
        if len(value) > 4:
            entry, behind = struct.pack(f"{order}I", place + len(behind)), behind + value + b"\0" * (len(value) % 2)
        else:
            entry = value.ljust(4, b"\0")
        head += struct.pack(f"{order}HHI", tag, kind, count) + entry
    first = data[:2] + struct.pack(f"{order}HI", 42, at)
    return b"".join([first, data[8:], b"\0" * (at - len(data)), head, b"\0" * 4, behind])
