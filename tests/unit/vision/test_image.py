"""The decode policy, held against pixels worked out by hand or by numpy, and against real awkward files."""

import io
import struct
import sys
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from support.image_files import RNG, SCENE, encoded, failure, png, tiff

from m2f_batch.errors import DecodeError
from m2f_batch.vision.decode import image as vision_image
from m2f_batch.vision.decode.image import decode, from_pil


def icc(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A minimal version 2 ICC profile."""
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"sRGB\0" + bytes(78), **tags}
    tags[b"cprt"] = b"text" + bytes(4) + b"none\0"
    tags[b"wtpt"] = xyz(0.9642, 1.0, 0.8249)
    table, body, at = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table, body = table + name + struct.pack(">II", at + len(body), len(data)), body + data
    head = struct.pack(">I4sI4s4s4s12x4s", at + len(body), b"none", 0x02100000, b"mntr", space, b"XYZ ", b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">iii", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">iii", *(round(v * 65536) for v in values))


def gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256))


P3 = np.array([[0.515102, 0.291965, 0.157153], [0.241182, 0.692236, 0.066582], [-0.00105, 0.041882, 0.784378]])

SRGB = np.array([[0.436066, 0.385147, 0.143066], [0.222488, 0.716873, 0.060608], [0.013916, 0.097076, 0.714096]])

CURVES = {name: gamma(2.2) for name in (b"rTRC", b"gTRC", b"bTRC")}

P3_PROFILE = icc(b"RGB ", CURVES | {n: xyz(*P3[:, i]) for i, n in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))})

SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

GRAY_PROFILE = icc(b"GRAY", {b"kTRC": gamma(1.8)})


def srgb_encoded(linear: NDArray[Any]) -> NDArray[Any]:
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def over_white(color: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """round((c * a + 255 * (255 - a)) / 255) in whole numbers."""
    total = color.astype(np.int64) * alpha + 255 * (255 - alpha.astype(np.int64))
    return (2 * total + 255) // 510


@pytest.fixture(autouse=True)
def _no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_rgb_is_contiguous_and_writable() -> None:
    pixels = decode(encoded(SCENE, "PNG"))
    assert np.array_equal(pixels, SCENE)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


def test_large_image_is_packed_by_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision_image, "_BAND_PIXELS", 80 * 7)
    assert np.array_equal(decode(encoded(SCENE, "PNG")), SCENE)
    deep = np.arange(48 * 80, dtype=np.uint16).reshape(48, 80) * 17
    assert np.array_equal(decode(encoded(deep, "PNG"))[..., 0], np.rint(deep / 257))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "WEBP", "GIF"])
def test_lossless_formats_by_content(kind: str) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {"sizes": [(80, 48)]} if kind == "ICO" else {}
    assert np.array_equal(decode(encoded(SCENE, kind, **options)), SCENE)


def upright(stored: NDArray[Any], orientation: int) -> NDArray[Any]:
    turned = {5: stored, 6: stored[::-1], 7: stored[::-1, ::-1], 8: stored[:, ::-1]}
    straight = {2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1]}
    return turned[orientation].swapaxes(0, 1) if orientation in turned else straight.get(orientation, stored)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF", "HEIF"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    if kind in ("JPEG", "AVIF", "HEIF"):
        options = {"quality": 98, "subsampling": "4:4:4"}
    pixels = decode(encoded(SCENE, kind, exif=exif.tobytes(), **options)).astype(int)
    wanted = upright(SCENE, orientation)
    assert pixels.shape == wanted.shape
    assert np.abs(pixels - wanted).max() <= (12 if "quality" in options else 0)


def test_orientation_after_the_pixels_of_a_png() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    data = encoded(SCENE, "PNG")
    assert np.array_equal(decode(data[:-12] + chunk + data[-12:]), upright(SCENE, 6))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_invalid_orientation_is_ignored(value: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert np.array_equal(decode(encoded(SCENE, "PNG", exif=exif.tobytes())), SCENE)


ORIENTATION_AS_TEXT = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI4sI", 1, 0x0112, 2, 2, b"6\0\0\0", 0)


@pytest.mark.parametrize(
    "exif",
    [ORIENTATION_AS_TEXT, b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x05x"],
)
def test_unreadable_exif_is_ignored(exif: bytes) -> None:
    assert decode(encoded(SCENE, "JPEG", exif=exif)).shape == SCENE.shape
    assert np.array_equal(decode(encoded(SCENE, "WEBP", exif=exif, lossless=True)), SCENE)


SAMPLES = np.array([[0, 1, 128, 129, 257, 32767, 32768, 65406, 65407, 65534, 65535]], np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_gray_uses_its_full_range(kind: str) -> None:
    wanted = [0, 0, 0, 1, 1, 127, 128, 254, 255, 255, 255]  # v / 257, rounded
    assert decode(encoded(SAMPLES, kind))[0].tolist() == [[v] * 3 for v in wanted]


def test_16_bit_big_endian_and_zero_is_white() -> None:
    deep = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 65535, 257))
    assert from_pil(deep)[0, :, 0].tolist() == [255, 1]
    data = tiff(2, 1, 16, 0, struct.pack("<HH", 65535, 257))
    assert decode(data)[0, :, 0].tolist() == [0, 254]


def test_12_bit_tiff_uses_its_full_range() -> None:
    assert decode(tiff(2, 1, 12, 1, bytes([0xFF, 0xF8, 0x00])))[0, :, 0].tolist() == [255, round(2048 / 4095 * 255)]


def test_16_bit_color_keeps_the_high_byte() -> None:
    rows = b"\0" + struct.pack(">6H", 65535, 0, 0x80FF, 0x0100, 0x00FF, 0xFE00)
    assert decode(png((1, 2), 16, 2, rows))[0].tolist() == [[255, 0, 128], [1, 0, 254]]
    rows = b"\0" + struct.pack(">4H", 65535, 65535, 65535, 0)  # gray and alpha
    assert decode(png((1, 2), 16, 4, rows))[0].tolist() == [[255] * 3, [255] * 3]


def test_32_bit_and_signed_integers() -> None:
    def gray(*values: int) -> list[int]:
        return from_pil(Image.fromarray(np.array([values], np.int32)))[0, :, 0].tolist()

    assert gray(0, 257, 65535) == [0, 1, 255]
    assert gray(-100, 0, 300) == [0, round(255 / 4), 255]
    assert gray(1_000_000, 2_000_000, 1_500_000) == [0, 255, 128]
    assert gray(70000, 70000) == [0, 0]
    assert decode(tiff(2, 1, 16, 1, struct.pack("<hh", -5, 5), kind=2))[0, :, 0].tolist() == [0, 255]


def test_float() -> None:
    def gray(*values: float) -> list[int]:
        return decode(tiff(len(values), 1, 32, 1, struct.pack(f"<{len(values)}f", *values), kind=3))[0, :, 0].tolist()

    nan, inf = float("nan"), float("inf")
    assert gray(0, 0.5, 1, 0.25) == [0, 128, 255, 64]
    assert gray(0.1, 0.2) == [26, 51]
    assert gray(-2, 0, 2, 1) == [0, 128, 255, 191]
    assert gray(100, 300, nan, inf, -inf, 150) == [0, 255, 0, 0, 0, 64]
    assert gray(nan, inf) == [0, 0]
    assert gray(7, 7) == [0, 0]
    assert gray(-3e38, 3e38) == [0, 255]


def test_bilevel_palette_and_gray() -> None:
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    assert decode(encoded(bits, "PNG"))[..., 1].tolist() == [[0, 255], [255, 0]]
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(decode(encoded(gray, "PNG")), np.repeat(gray[..., None], 3, axis=2))
    assert decode(palette_png())[0].tolist() == [[200, 10, 20], [0, 90, 180], [5, 6, 7]]


def palette_png(transparency: bytes = b"") -> bytes:
    extra = [(b"PLTE", bytes([200, 10, 20, 0, 90, 180, 5, 6, 7]))] + [(b"tRNS", transparency)] * bool(transparency)
    return png((1, 3), 8, 3, b"\0\0\1\2", *extra)


def test_palette_transparency() -> None:
    wanted = over_white(np.array([[200, 10, 20], [0, 90, 180], [5, 6, 7]]), np.array([[255], [100], [0]]))
    assert np.array_equal(decode(palette_png(bytes([255, 100, 0])))[0], wanted)
    assert decode(palette_png(bytes([255, 0])))[0].tolist() == [[200, 10, 20], [255] * 3, [5, 6, 7]]


def test_color_keys() -> None:
    def row(depth: int, color: int, samples: bytes, key: bytes) -> list[list[int]]:
        width = len(samples) * 8 // (depth * (3 if color == 2 else 1))
        return decode(png((1, width), depth, color, b"\0" + samples, (b"tRNS", key)))[0].tolist()

    assert row(8, 0, bytes([44, 45]), b"\0\x2c") == [[255] * 3, [45] * 3]
    assert row(8, 2, bytes([1, 2, 3, 1, 2, 4]), b"\0\1\0\2\0\3") == [[255] * 3, [1, 2, 4]]
    assert row(1, 0, b"\x80", b"\0\0") == [[255] * 3] * 8  # the zeros are transparent, the one is white
    assert row(2, 0, bytes([0b00011011]), b"\0\2") == [[0] * 3, [85] * 3, [255] * 3, [255] * 3]
    assert row(4, 0, bytes([0x12]), b"\0\1") == [[255] * 3, [34] * 3]
    assert row(16, 0, struct.pack(">HH", 300, 301), struct.pack(">H", 300)) == [[255] * 3, [1] * 3]
    keyed = row(16, 2, struct.pack(">6H", 9000, 0, 0, 0, 9000, 0), struct.pack(">3H", 9000, 0, 0))
    assert keyed == [[255] * 3, [0, 9000 >> 8, 0]]


def test_alpha_over_white_is_exact() -> None:
    value, alpha = np.meshgrid(np.arange(256), np.arange(256))
    wanted = over_white(value, alpha)
    rgba = np.stack([value, 255 - value, value, alpha], axis=-1).astype(np.uint8)
    pixels = decode(encoded(rgba, "PNG"))
    assert np.array_equal(pixels[..., 0], wanted)
    assert np.array_equal(pixels[..., 1], over_white(255 - value, alpha))
    gray = Image.merge("LA", [Image.fromarray(band.astype(np.uint8)) for band in (value, alpha)])
    assert np.array_equal(decode(encoded(gray, "PNG"))[..., 2], wanted)
    for mode, image in (("RGBa", Image.fromarray(rgba)), ("La", gray)):
        assert np.abs(from_pil(image.convert(mode))[..., 0].astype(int) - wanted).max() <= 1


def test_cmyk() -> None:
    ink = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 255, 0], [0, 0, 0, 255], [0, 128, 0, 64]]], np.uint8)
    image = Image.frombytes("CMYK", (5, 1), ink.tobytes()).resize((80, 16), Image.Resampling.NEAREST)
    wanted = np.array([[255, 255, 255], [0, 255, 255], [255, 0, 0], [0, 0, 0], [191, 95, 191]])
    for kind, slack in (("TIFF", 1), ("JPEG", 6)):
        pixels = decode(encoded(image, kind, **({"quality": 100} if kind == "JPEG" else {})))
        assert np.abs(pixels[8, 8::16].astype(int) - wanted).max() <= slack


def test_lab_and_ycbcr() -> None:
    lab = Image.frombytes("LAB", (3, 1), bytes([255, 0, 0, 0, 0, 0, 138, 81, 70]))  # a and b signed; the last is red
    assert np.abs(from_pil(lab)[0].astype(int) - [[255] * 3, [0] * 3, [255, 0, 0]]).max() <= 5
    ycc = Image.frombytes("YCbCr", (2, 1), bytes([255, 128, 128, 76, 85, 255]))
    assert np.abs(from_pil(ycc)[0].astype(int) - [[255] * 3, [254, 0, 0]]).max() <= 1


def test_wide_gamut_profile_moves_colors_to_known_values() -> None:
    linear = (SCENE / 255) ** 2.2
    wanted = srgb_encoded(linear @ P3.T @ np.linalg.inv(SRGB).T)
    for kind in ("PNG", "TIFF"):
        pixels = decode(encoded(SCENE, kind, icc_profile=P3_PROFILE))
        assert np.abs(pixels - wanted).max() <= 2, kind
    assert np.abs(wanted - SCENE).max() > 20
    rgba = np.concatenate([SCENE, np.full((*SCENE.shape[:2], 1), 51, np.uint8)], axis=-1)
    pixels = decode(encoded(rgba, "PNG", icc_profile=P3_PROFILE))
    assert np.abs(pixels - (wanted * 0.2 + 255 * 0.8)).max() <= 1.5


def test_gray_profile() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = decode(encoded(gray, "PNG", icc_profile=GRAY_PROFILE))
    assert np.abs(pixels - srgb_encoded((gray / 255) ** 1.8)[..., None]).max() <= 2


@pytest.mark.parametrize("profile", [SRGB_PROFILE, GRAY_PROFILE, b"garbage", P3_PROFILE[:200], SRGB_PROFILE[:140]])
def test_srgb_unreadable_and_mismatched_profiles_change_nothing(profile: bytes) -> None:
    assert np.array_equal(decode(encoded(SCENE, "PNG", icc_profile=profile)), SCENE)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO", "AVIF"])
def test_first_of_several_frames(kind: str) -> None:
    colors = [(200, 30, 40), (10, 220, 30), (0, 0, 250)]
    first, *others = [Image.new("RGB", (32, 16), color) for color in colors]
    pixels = decode(encoded(first, kind, save_all=True, append_images=others)).astype(int)
    assert pixels.shape == (16, 32, 3)
    assert np.abs(pixels - colors[0]).max() <= 6


def test_huge_later_page_is_not_decoded() -> None:
    later = Image.new("1", (8000, 8000))
    data = encoded(SCENE, "TIFF", save_all=True, append_images=[later], compression="tiff_adobe_deflate")
    assert np.array_equal(decode(data, max_pixels=48 * 80), SCENE)


def test_from_pil() -> None:
    image = Image.open(io.BytesIO(encoded(SCENE, "PNG")))
    assert np.array_equal(from_pil(image), SCENE)
    assert np.array_equal(from_pil(image), SCENE)
    with pytest.raises(DecodeError, match="ZeroSize"):
        from_pil(Image.new("RGB", (0, 5)))
    with pytest.raises(DecodeError, match="TooManyPixels"):
        from_pil(image, max_pixels=9)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_from_pil_fails_again_after_a_failed_load(kind: str) -> None:
    noise = RNG.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    image = Image.open(io.BytesIO(encoded(noise, kind)[:-900]))
    for _ in range(3):
        with pytest.raises(DecodeError):
            from_pil(image)


HEIC_HEADER = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"])
def test_heic_without_the_extra(monkeypatch: pytest.MonkeyPatch, brand: bytes) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    error = failure(HEIC_HEADER.replace(b"ftypheic", b"ftyp" + brand))
    assert error.reason == "HeicUnsupported"
    assert "pip install 'm2f-batch[heic]'" in error.message


def test_avif_needs_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = encoded(Image.new("RGB", (16, 16), (10, 200, 30)), "AVIF")
    assert np.abs(decode(data).astype(int) - (10, 200, 30)).max() <= 4
    assert decode(data.replace(b"ftypavif", b"ftypmif1")).shape == (16, 16, 3)
    assert failure(HEIC_HEADER.replace(b"heic", b"isom").replace(b"mif1", b"mp42")).reason == "NotAnImage"
