"""PNGs of every colour type, depth and interlacing against the samples in them, and metadata that costs no pixel."""

import io
import itertools
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from m2f_batch.errors import DecodeError
from m2f_batch.vision.decode.header import describe
from m2f_batch.vision.decode.image import decode, read_size
from m2f_batch.vision.decode.png import MAX_PROFILE, mended

Chunk = tuple[bytes, bytes]
HEIGHT, WIDTH = 37, 29
Y, X = np.mgrid[:HEIGHT, :WIDTH]
PLANES = np.stack([(5 * X + Y) % 256, (255 - 3 * X + 2 * Y) % 256, X * Y // 3 % 256, 255 - X % 5 * 40], -1)
GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGBA: 4}
DEPTHS = {GRAY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GRAY_ALPHA: (8, 16), RGBA: (8, 16)}
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
SCENE = np.kron(np.random.default_rng(7).integers(0, 256, (3, 5, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(samples: NDArray[Any], depth: int, color: int, *before: bytes, interlaced: bool = False) -> bytes:
    """A PNG of samples [H, W, C], without filters; ``before`` are the chunks before the pixels."""
    height, width, _ = samples.shape
    passes = [samples[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [samples]
    rows = b"".join(b"\0" + _packed(row, depth) for part in passes if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    chunks = [chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _packed(row: NDArray[Any], depth: int) -> bytes:
    if depth == 16:
        return row.astype(">u2").tobytes()
    bits = (row.reshape(-1, 1).astype(np.int64) >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def over_white(color: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    total = color.astype(np.int64) * alpha + 255 * (255 - alpha.astype(np.int64))
    return (2 * total + 255) // 510


def eight_bit(samples: NDArray[Any], depth: int, color: int) -> NDArray[Any]:
    """Gray of 16 bits is rounded; of 16-bit colour, and of gray with alpha, the high byte is kept."""
    if depth < 8:
        return samples.astype(np.int64) * (255 // (2**depth - 1))
    if depth == 16:
        return np.rint(samples / 257).astype(np.int64) if color == GRAY else samples.astype(np.int64) >> 8
    return samples.astype(np.int64)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("color", "depth"), [(color, depth) for color, depths in DEPTHS.items() for depth in depths])
@pytest.mark.parametrize("with_key", [False, True])
def test_every_kind(color: int, depth: int, interlaced: bool, with_key: bool) -> None:
    if with_key and color in (GRAY_ALPHA, RGBA):
        pytest.skip("has alpha, and no colour key")
    samples = PLANES[..., : CHANNELS[color]] % 2**depth
    if depth == 16:
        samples = PLANES[..., : CHANNELS[color]] * 256 + X[..., None]
    before, alpha = [], None
    if color == PALETTE:
        palette = np.random.default_rng(depth).integers(0, 256, (2**depth, 3))
        before.append(chunk(b"PLTE", palette.astype(np.uint8).tobytes()))
        shown = palette[samples[..., 0]]
        if with_key:
            alphas = np.random.default_rng(1).integers(0, 256, 2**depth)
            before.append(chunk(b"tRNS", alphas.astype(np.uint8).tobytes()))
            alpha = alphas[samples[..., 0]]
    else:
        shown = eight_bit(samples, depth, color)
        if with_key:
            before.append(chunk(b"tRNS", samples[5, 7].astype(">u2").tobytes()))
            is_same = samples == samples[5, 7]
            if color == RGB and depth == 16:  # compared by the bytes that are kept
                is_same = samples >> 8 == samples[5, 7] >> 8
            alpha = np.where(is_same.all(-1), 0, 255)
    if color in (GRAY_ALPHA, RGBA):
        shown, alpha = shown[..., :-1], shown[..., -1]
    wanted = np.broadcast_to(shown, (HEIGHT, WIDTH, 3))
    wanted = wanted if alpha is None else over_white(wanted, alpha[..., None])
    data = png(samples, depth, color, *before, interlaced=interlaced)
    assert read_size(data) == (HEIGHT, WIDTH)
    assert np.array_equal(decode(data), wanted)


def zipped(size: int) -> bytes:
    return zlib.compress(b"a" * size)


LARGE = 2 << 20
METADATA: dict[str, list[bytes]] = {
    "large zTXt": [chunk(b"zTXt", b"Comment\0\0" + zipped(LARGE))],
    "large iTXt": [chunk(b"iTXt", b"Comment\0\1\0\0\0" + zipped(LARGE))],
    "large tEXt": [chunk(b"tEXt", b"Comment\0" + b"a" * LARGE)],
    "large XMP": [chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zipped(LARGE))],
    "large EXIF in a text": [chunk(b"zTXt", b"Raw profile type exif\0\0" + zipped(LARGE))],
    "66 MB of texts": [chunk(b"zTXt", b"k%d\0\0" % at + zipped(1 << 20)) for at in range(66)],
    "a text called bbox": [chunk(b"tEXt", b"bbox\0x")],
    "a text called transparency": [chunk(b"tEXt", b"transparency\0x")],
    "a text called icc_profile": [chunk(b"tEXt", b"icc_profile\0x")],
    "unknown method": [chunk(b"zTXt", b"Comment\0\7x"), chunk(b"zTXt", b"Raw profile type exif\0\7x")],
    "bad deflate": [chunk(b"zTXt", b"Comment\0\0xyz"), chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0xyz")],
    "no text at all": [chunk(b"zTXt", b""), chunk(b"iTXt", b""), chunk(b"tEXt", b"")],
    "large iCCP that is none": [chunk(b"iCCP", b"icc\0\0" + zipped(LARGE))],
    "huge iCCP": [chunk(b"iCCP", b"icc\0\0" + zipped(MAX_PROFILE + 1))],
    "iCCP cut short": [chunk(b"iCCP", b"icc")],
    "iCCP of an unknown method": [chunk(b"iCCP", b"icc\0\1x")],
    "bad deflate in iCCP": [chunk(b"iCCP", b"icc\0\0xyz")],
    "short colour tags": [chunk(kind, b"") for kind in (b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"acTL")],
    "checksums": [
        chunk(kind, b"x" * 40)[:-1] + b"!" for kind in (b"tEXt", b"gAMA", b"cHRM", b"pHYs", b"iCCP", b"eXIf")
    ],
}


@pytest.mark.parametrize("name", METADATA)
@pytest.mark.parametrize("is_behind", [False, True])
def test_metadata_costs_no_pixel(name: str, is_behind: bool) -> None:
    plain = png(SCENE, 8, RGB)
    end = len(plain) - 12
    data = plain[:end] + b"".join(METADATA[name]) + plain[end:] if is_behind else png(SCENE, 8, RGB, *METADATA[name])
    assert read_size(data) == SCENE.shape[:2]
    assert np.array_equal(decode(data), SCENE)
    assert describe(data, "a.png", whole=True)["mode"] == "RGB"


def large_profile() -> bytes:
    """sRGB with red and green swapped, and 2 MB that mean nothing behind it."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", profile, 128)
    places = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    for swapped, name in ((b"rXYZ", b"gXYZ"), (b"gXYZ", b"rXYZ")):
        profile[places[swapped] : places[swapped] + 4] = name
    profile += bytes(LARGE)
    profile[:4] = struct.pack(">I", len(profile))
    return bytes(profile)


def test_a_large_profile_is_applied_as_in_a_tiff() -> None:
    profile, file = large_profile(), io.BytesIO()
    Image.fromarray(SCENE).save(file, "TIFF", icc_profile=profile)
    wanted = decode(file.getvalue())
    assert np.abs(wanted.astype(int) - SCENE).max() > 50
    data = png(SCENE, 8, RGB, chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile)))
    assert np.array_equal(decode(data), wanted)
    assert describe(data, "a.png", whole=True)["icc_profile"]["bytes"] == len(profile)


@pytest.mark.parametrize(
    "turned",
    [
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='6'/>".replace(b"'", b'"')),
        chunk(b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
    ],
)
def test_what_says_how_it_is_turned_is_kept(turned: bytes) -> None:
    large = METADATA["large zTXt"]
    assert np.array_equal(decode(png(SCENE, 8, RGB, *large, turned)), np.rot90(SCENE, -1))


def test_what_decides_pixels_is_not_left_out() -> None:
    broken = chunk(b"tRNS", b"\0" * 6)[:-1] + b"!"
    with pytest.raises(DecodeError, match="Corrupt: PNG: broken PNG file"):
        decode(png(SCENE, 8, RGB, broken))
    plain = png(SCENE, 8, RGB, chunk(b"gAMA", struct.pack(">I", 45455)))
    assert mended(plain) == (plain, {})


def test_cut_anywhere_it_is_an_error_of_the_image() -> None:
    data = png(SCENE, 8, RGB, *METADATA["large zTXt"], *METADATA["large iTXt"])
    for size in itertools.chain(range(40), range(40, len(data) - 16, 131)):
        with pytest.raises(DecodeError):
            decode(data[:size])


def test_the_file_of_the_report(shared_cases: Path) -> None:
    folder = shared_cases / "05-png-large-text"
    wanted = decode((folder / "plain.png").read_bytes())
    assert np.array_equal(decode((folder / "ztxt-2mb.png").read_bytes()), wanted)
    assert describe((folder / "ztxt-2mb.png").read_bytes(), "a.png", whole=True)["format"] == "PNG"
