"""PNG without the metadata that costs Pillow the pixels: large or damaged texts and profiles, color tags cut short."""

import struct
import zlib
from collections.abc import Iterator
from typing import Any

_SIGNATURE = 8  # bytes
_PILLOWS_LIMIT = 1 << 20  # bytes of one inflated chunk, PngImagePlugin.MAX_TEXT_CHUNK
MAX_PROFILE = 1 << 25  # bytes of a color profile; beyond that it counts as unreadable
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
# texts that may say how the image is turned; all others are left out
_ORIENTATION = frozenset({b"exif", b"xmp", b"XML:com.adobe.xmp", b"Raw profile type exif"})
# chunks that decide no pixel here, and the bytes that Pillow wants of them
_LEAST = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"acTL": 8, b"tIME": 0, b"eXIf": 0, b"iCCP": 0}


def mended(data: bytes) -> tuple[bytes, dict[Any, bytes]]:
    """A PNG that Pillow opens whatever its metadata, and as ``icc_profile`` one that is too large for Pillow.

    A profile of more than ``MAX_PROFILE`` bytes, inflated, counts as unreadable.
    """
    parts, last, more = [], 0, {}
    for kind, begin, end in _chunks(data):
        if kind in _TEXTS or kind in _LEAST:
            body = data[begin + 8 : end - 4]
            is_kept = data[end - 4 : end] == struct.pack(">I", zlib.crc32(data[begin + 4 : end - 4]))
            if kind in _TEXTS:
                is_kept = is_kept and _is_useful_text(kind, body)
            elif kind == b"iCCP":
                small = _inflated(_profile_in(body), _PILLOWS_LIMIT)
                if is_kept and small is None and (profile := _inflated(_profile_in(body), MAX_PROFILE)):
                    more["icc_profile"] = profile
                is_kept = is_kept and small is not None
            else:
                is_kept = is_kept and len(body) >= _LEAST[kind]
            if not is_kept:
                parts.append(data[last:begin])
                last = end
    return (b"".join([*parts, data[last:]]) if parts else data), more


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of each whole chunk, of which a length, its kind and a checksum are part."""
    at = _SIGNATURE
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 12 + length
        if end > len(data):
            return
        yield data[at + 4 : at + 8], at, end
        at = end


def _is_useful_text(kind: bytes, body: bytes) -> bool:
    """Return whether a text may hold an orientation that Pillow reads."""
    key, _, rest = body.partition(b"\0")
    if key not in _ORIENTATION:
        return False
    if kind == b"zTXt":
        return rest[:1] == b"\0" and _inflated(rest[1:], _PILLOWS_LIMIT) is not None
    if kind == b"iTXt" and rest[:2] == b"\1\0":
        return _inflated(rest[2:].split(b"\0", 2)[-1], _PILLOWS_LIMIT) is not None
    return True


def _profile_in(body: bytes) -> bytes | None:
    """The deflated profile of an iCCP chunk, whose compression method is 0. None for another."""
    _, separator, rest = body.partition(b"\0")
    return rest[1:] if separator and rest[:1] == b"\0" else None


def _inflated(deflated: bytes | None, limit: int) -> bytes | None:
    """At most ``limit`` bytes, as far as they can be read. None where there are more, or none was deflated."""
    if deflated is None:
        return None
    inflate = zlib.decompressobj()
    try:
        whole = inflate.decompress(deflated, limit)
    except zlib.error:
        return b""
    return None if inflate.unconsumed_tail else whole
