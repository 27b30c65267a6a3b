"""TIFFs of every layout against the samples that were written into them."""

import contextlib
import io
import itertools
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.tiff_files import DEFLATE, LZW, NONE, PACKBITS, Layout, tiff

from m2f_batch.errors import DecodeError
from m2f_batch.vision.decode import tiff as tiffs
from m2f_batch.vision.decode.header import describe
from m2f_batch.vision.decode.image import decode, from_pil, read_size
from m2f_batch.vision.decode.tiff import mended

HEIGHT, WIDTH = 37, 45
Y, X = np.mgrid[:HEIGHT, :WIDTH]
# five planes that no two pixels share
PLANES = np.stack([(5 * X + Y) % 256, (255 - 3 * X + 2 * Y) % 256, X * Y // 7 % 256, 255 - X % 5 * 40, Y * 6 % 256], -1)
ALPHA = 2  # an extra sample that is one
PARTS: dict[str, Any] = {"one strip": None, "strips": 16, "tiles": (16, 32)}
COMPRESSIONS = {"none": NONE, "lzw": LZW, "deflate": DEFLATE, "packbits": PACKBITS}


def over_white(color: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    alpha = alpha[..., None].astype(float)
    return np.floor((color * alpha + 255 * (255 - alpha)) / 255 + 0.5)


def layouts(channels: int) -> Iterator[Layout]:
    """Every layout of so many channels that libtiff and struct both know."""
    extra = {1: (), 2: (ALPHA,), 3: (), 4: (ALPHA,), 5: (ALPHA, 0)}[channels]
    for order, is_big, planar, compression, part in itertools.product(
        "<>", (False, True), (False, True), COMPRESSIONS.values(), PARTS.values()
    ):
        if planar and channels == 1:
            continue
        for predictor in (False, True) if compression in (LZW, DEFLATE) else (False,):
            yield Layout(order, is_big, planar, compression, predictor, part, extra=extra)


def check(samples: NDArray[Any], layout: Layout, expected: NDArray[Any]) -> None:
    data = tiff(samples, layout)
    assert read_size(data) == expected.shape[:2]
    got = decode(data)
    assert np.abs(got.astype(float) - expected).max() <= 0, layout


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_bytes_of_every_layout(channels: int) -> None:
    samples = PLANES[..., :channels].astype(np.uint8)
    color = samples[..., :3] if channels >= 3 else np.repeat(samples[..., :1], 3, -1)
    expected = over_white(color, samples[..., 1 if channels == 2 else 3]) if channels in (2, 4, 5) else color
    for layout in layouts(channels):
        check(samples, layout, expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_of_every_layout(channels: int) -> None:
    samples = (PLANES[..., :channels] * 256 + X[..., None] * 5).clip(0, 65535).astype(np.uint16)
    if channels == 1:
        expected = np.repeat(np.rint(samples / 65535 * 255), 3, -1)
    else:
        high = samples >> 8  # of 16-bit colour the high byte is kept
        expected = over_white(high[..., :3], high[..., 3]) if channels == 4 else high
    for layout in layouts(channels):
        check(samples, layout, expected)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.int8])
@pytest.mark.parametrize("low", [0, -50])
def test_signed_and_float_gray_of_every_layout(dtype: type, low: int) -> None:
    """As 16-bit (float: 0 to 1) if all values lie there, else from the least to the largest."""
    values = PLANES[..., :1] // 2 + low
    samples = (values / 127 if dtype is np.float32 and low == 0 else values).astype(dtype)
    least, most = (0, 1.0 if dtype is np.float32 else 65535) if low == 0 else (samples.min(), samples.max())
    if dtype is np.int8 and low == 0:
        most = 255  # bytes that are not negative are bytes
    expected = np.repeat(np.rint((samples.astype(float) - least) / (float(most) - least) * 255), 3, -1)
    for layout in layouts(1):
        if not (layout.predictor and dtype is np.float32):  # floats have a predictor of their own
            check(samples, layout, expected)


def test_unsigned_32_bits_above_what_signed_ones_hold() -> None:
    samples = (PLANES[..., :1] * 2**24).astype(np.uint32)
    samples[0, 0], samples[0, 1] = 0, 255 * 2**24
    for compression, part in itertools.product(COMPRESSIONS.values(), PARTS.values()):
        check(samples, Layout(compression=compression, part=part), np.repeat(samples >> 24, 3, -1))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_less_than_a_byte(bits: int) -> None:
    samples = (PLANES[..., :1] % 2**bits).astype(np.uint8)
    for order, compression, part, photometric in itertools.product("<>", COMPRESSIONS.values(), PARTS.values(), (0, 1)):
        gray = samples * (255 // (2**bits - 1))
        expected = np.repeat(gray if photometric else 255 - gray, 3, -1)
        check(samples, Layout(order, False, False, compression, False, part, bits, photometric), expected)


def test_12_bits() -> None:
    samples = (PLANES[..., :1] * 16 + X[..., None] % 16).astype(np.uint16)
    expected = np.repeat(np.rint(samples / 4095 * 255), 3, -1)
    for compression, part in itertools.product((NONE, LZW, DEFLATE, PACKBITS), (None, 16)):
        check(samples, Layout(compression=compression, part=part, bits=12), expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes(bits: int) -> None:
    samples = (PLANES[..., :1] % 2**bits).astype(np.uint8)
    palette = np.random.default_rng(0).integers(0, 256, (3, 2**bits))
    for order, compression, part in itertools.product("<>", COMPRESSIONS.values(), PARTS.values()):
        layout = Layout(
            order, False, False, compression, False, part, bits, 3, palette=(palette * 256).reshape(-1).tolist()
        )
        check(samples, layout, palette.T[samples[..., 0]])


@pytest.mark.parametrize("photometric", [5, 8])
def test_inks_and_lab_in_planes_are_those_side_by_side(photometric: int) -> None:
    samples = PLANES[..., : 4 if photometric == 5 else 3].astype(np.uint8)
    expected = decode(tiff(samples, Layout(photometric=photometric)))
    assert len(np.unique(expected)) > 50
    for layout in layouts(3):
        here = Layout(
            layout.order, layout.is_big, layout.planar, layout.compression, False, layout.part, photometric=photometric
        )
        check(samples, here, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("unsaid", [(0,), (0, 0), (ALPHA, 0), (1, 0), (0, ALPHA), (0, 0, 1)])
def test_extra_planes_that_mean_nothing_are_left_out(dtype: type, unsaid: tuple[int, ...]) -> None:
    """As the same file without them says; of satellites a fourth band is near infrared."""
    scale = 1 if dtype is np.uint8 else 256
    samples = (np.concatenate([PLANES, PLANES[..., :1]], -1)[..., : 3 + len(unsaid)] * scale).astype(dtype)
    planes = [0, 1, 2, *(3 + at for at, kind in enumerate(unsaid) if kind)]
    expected = decode(tiff(samples[..., planes], Layout(extra=[kind for kind in unsaid if kind])))
    for order, is_big, compression, part in itertools.product(
        "<>", (False, True), COMPRESSIONS.values(), PARTS.values()
    ):
        check(samples, Layout(order, is_big, True, compression, False, part, extra=unsaid), expected)


def test_opened_by_pillow_they_are_decoded_right_too() -> None:
    samples = (PLANES[..., :3] * 256).astype(np.uint16)
    with Image.open(io.BytesIO(tiff(samples, Layout(planar=True, part=8)))) as image:
        assert (from_pil(image) == samples >> 8).all()


def test_orientation_profile_and_header_survive_another_directory() -> None:
    samples = PLANES[..., :2].astype(np.uint8)
    data = tiff(samples, Layout(">", True, True, extra=(ALPHA,), tags=[(274, 3, [6])]))
    assert read_size(data) == (WIDTH, HEIGHT)
    upright = over_white(np.repeat(samples[..., :1], 3, -1), samples[..., 1])
    assert (decode(data) == np.rot90(upright, -1)).all()
    facts = describe(data, "a.tif", whole=True)
    assert (facts["format"], facts["mode"], facts["exif_orientation"]) == ("TIFF", "RGBA", 6)


def test_a_tiff_that_pillow_reads_right_is_left_as_it_is() -> None:
    for channels in (1, 3, 4):
        for layout in layouts(channels):
            if not (layout.is_big and layout.order == ">") and channels != 2:
                data = tiff(PLANES[..., :channels].astype(np.uint8), layout)
                assert mended(data) is data


def test_what_no_reader_knows_is_refused_with_its_layout() -> None:
    for samples, layout, words in (
        (
            PLANES[..., :2].astype(np.uint16),
            Layout(extra=(ALPHA,)),
            "2 samples of 16 bits, photometric interpretation 1",
        ),
        (PLANES[..., :3].astype(np.float32), Layout(planar=True), "3 float samples of 32 bits"),
        (PLANES[..., :1].astype(np.uint32), Layout(">"), "1 samples of 32 bits, photometric interpretation 1"),
    ):
        with pytest.raises(DecodeError) as caught:
            decode(tiff(samples, layout))
        assert caught.value.reason == "UnsupportedMode"
        assert caught.value.message.startswith(f"TIFF: unknown pixel mode: {words}")


def test_damage_is_an_error_of_the_image() -> None:
    whole = tiff(PLANES[..., :2].astype(np.uint8), Layout(">", True, True, LZW, part=8, extra=(ALPHA,)))
    for size in (*range(0, 24), *range(24, len(whole), 97)):
        try:
            decoded = decode(whole[:size])
        except DecodeError:
            continue
        raise AssertionError((size, decoded.shape))
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 4):
            damaged[place] = rng.integers(0, 256)
        with contextlib.suppress(DecodeError):
            decode(bytes(damaged), max_pixels=10**6)


def test_the_files_of_the_report(shared_cases: Path) -> None:
    folder = shared_cases / "23-odd-decodes"
    for planar, contiguous in (("16b_3c_separate", "16b_3c_contig"), ("8b_4c_separate", "8b_4c_contig")):
        expected = decode((folder / f"{contiguous}_None_strip_le.tif").read_bytes())
        assert (decode((folder / f"{planar}_None_strip_le.tif").read_bytes()) == expected).all()
    with pytest.raises(DecodeError, match="UnsupportedMode: TIFF: unknown pixel mode: 4 samples of 8 bits"):
        decode((folder / "4band_black.tif").read_bytes())


def test_tags_that_all_name_the_same_bytes_cost_no_memory() -> None:
    """A small file of 3,000 tags with 200,000 bytes each would be 600 MB, and one of 1 MB more than there is."""
    tags, shared = range(40_000, 43_000), 200_000
    behind = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 1, shared, behind) for tag in tags)
    data = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(tags)) + entries + bytes(4 + shared)
    tracemalloc.start()
    try:
        assert mended(data) is data
        assert tiffs.layout(data) == ""
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data)
    finally:
        tracemalloc.stop()


def test_a_tag_that_pillow_cannot_read_counts_as_missing() -> None:
    """Of a photometric interpretation of two numbers Pillow keeps none, and takes zero for white."""
    samples = PLANES[..., :1].astype(np.uint8)
    data = bytearray(tiff(samples, Layout("<", False, False, NONE, False, None)))
    at = data.index(struct.pack("<HHI", 262, 3, 1))
    data[at : at + 8] = struct.pack("<HHI", 262, 3, 2)
    assert np.array_equal(decode(bytes(data)), np.repeat(255 - samples, 3, -1))
    assert read_size(bytes(data)) == samples.shape[:2]
