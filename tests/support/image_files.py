"""Images made by hand for the tests of decoding, with the pixels that they hold."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from m2f_batch.errors import DecodeError
from m2f_batch.vision.decode.image import decode

ROOT = Path(__file__).resolve().parents[2]
AWKWARD = ROOT.parent / "shared" / "data" / "awkward"
RNG = np.random.default_rng(7)
SCENE = np.kron(RNG.integers(0, 256, (3, 5, 3)), np.ones((16, 16, 1))).astype(np.uint8)  # 48 x 80 pixels, flat blocks


def encoded(image: Image.Image | NDArray[Any], kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def png(size: tuple[int, int], depth: int, color: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand; ``rows`` holds the filter bytes, ``extra`` the chunks before the pixels."""
    header = struct.pack(">IIBBBBB", size[1], size[0], depth, color, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(width: int, height: int, bits: int, photometric: int, samples: bytes, kind: int = 1) -> bytes:
    """A gray, uncompressed, little-endian TIFF by hand; ``kind`` 1 unsigned, 2 signed, 3 float."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags |= {279: len(samples), 339: kind}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return (
        b"II*\x00" + struct.pack("<I", 8 + len(samples)) + samples + struct.pack("<H", len(tags)) + entries + bytes(4)
    )


def failure(data: bytes, **options: Any) -> DecodeError:
    """The error of ``data``, which is the same every time."""
    errors = []
    for _ in range(2):
        with pytest.raises(DecodeError) as caught:
            decode(data, **options)
        errors.append(caught.value)
    assert str(errors[0]) == str(errors[1])
    assert errors[0].size_hw == errors[1].size_hw
    assert "0x" not in errors[0].message
    assert "\n" not in errors[0].message
    return errors[0]
