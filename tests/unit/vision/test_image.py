"""The decode policy, held against pixels worked out by hand or by numpy, and against real awkward files."""

import io
import json
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from m2f_batch.errors import DecodeError
from m2f_batch.vision.decode import image as vision_image
from m2f_batch.vision.decode.image import decode, from_pil

ROOT = Path(__file__).resolve().parents[3]
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


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "HEIF"])
def test_truncated(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    noise = RNG.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    data = encoded(noise, kind, **({"compression": "jpeg"} if kind == "TIFF" else {}))
    assert decode(data).shape == noise.shape
    error = failure(data[: len(data) // 2] if kind != "TIFF" else tiff_tail_cut(data))
    assert error.reason == "Truncated"
    if kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF"):
        assert error.size_hw == (64, 96)


def tiff_tail_cut(data: bytes) -> bytes:
    """A strip moved beyond the end of the file, as after a cut."""
    entry = data.find(struct.pack("<HH", 273, 4))
    return data[: entry + 8] + struct.pack("<I", len(data) - 10) + data[entry + 12 :]


def test_size_of_a_failed_image_is_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(SCENE, "JPEG", exif=exif.tobytes())
    assert failure(data[:-60]).size_hw == (80, 48)
    assert failure(data, max_pixels=100).size_hw == (80, 48)


@pytest.mark.parametrize(
    "data", [b"hello, world\n", b"%PDF-1.7\n", b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"Py", b"BMW\n" * 9, bytes(99)]
)
def test_no_image(data: bytes) -> None:
    assert failure(data).reason == "NotAnImage"


def test_empty_and_corrupt() -> None:
    assert failure(b"").reason == "Empty"
    good = encoded(SCENE, "PNG")
    assert failure(good[:20] + b"\xff" + good[21:]).reason == "Corrupt"
    assert failure(png((0, 5), 8, 2, b"\0")).reason == "ZeroSize"
    assert failure(tiff(2, 1, 64, 1, bytes(16), kind=3)).reason == "UnsupportedMode"


def gif_of(width: int, height: int) -> bytes:
    """A GIF with a screen of 1 x 1, whose first frame is larger and to be disposed of."""
    start = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + b"!\xf9\x04\x08\0\0\0\0"
    return start + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00;"


BOMBS = {
    "png": png((60000, 60000), 8, 2, b""),
    "bmp": encoded(SCENE, "BMP")[:18] + struct.pack("<ii", 10**6, 10**6) + encoded(SCENE, "BMP")[26:],
    "gif": gif_of(65535, 65535),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused_by_its_header(name: str) -> None:
    error = failure(BOMBS[name])
    assert error.reason == "TooManyPixels"
    pixels = {"png": 60000**2, "bmp": 10**12, "gif": 65535**2}[name]
    assert f"{pixels} pixels are more than the cap of 200000000 (input.max_pixels)" in error.message


def test_bombs_take_no_memory(tmp_path: Path) -> None:
    """With 1 GiB of address space the refusals are the same; no room would be another reason."""
    code = """if True:
        import pathlib, resource, sys
        import m2f_batch.vision.decode.image as v
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        for name in sys.argv[1:]:
            try: v.decode(pathlib.Path(name).read_bytes())
            except v.DecodeError as error: print(error.reason)"""
    files = [tmp_path / name for name in BOMBS]
    for path in files:
        path.write_bytes(BOMBS[path.name])
    wanted = ["TooManyPixels"] * len(files)
    if AWKWARD.is_dir():
        files += [AWKWARD / "bomb/libvips__17000x17000.avif", AWKWARD / "corrupt/pillow__reallybig.bmp"]
        wanted += ["TooManyPixels"] * 2
    command = [sys.executable, "-c", code, *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == wanted


def test_cap_is_ours_and_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own would refuse
    data = encoded(SCENE, "PNG")
    assert decode(data, max_pixels=48 * 80).shape == SCENE.shape
    assert decode(encoded(SCENE, "WEBP"), max_pixels=48 * 80).shape == SCENE.shape  # its plugin asks Pillow's limit
    assert failure(encoded(SCENE, "WEBP"), max_pixels=48 * 80 - 1).reason == "TooManyPixels"
    error = failure(data, max_pixels=48 * 80 - 1)
    assert (error.reason, error.size_hw) == ("TooManyPixels", (48, 80))
    assert error.message == "80 x 48 = 3840 pixels are more than the cap of 3839 (input.max_pixels)"
    assert Image.MAX_IMAGE_PIXELS == 10


def test_picture_in_an_ico_is_held_against_the_cap() -> None:
    inner = png((30000, 30000), 8, 2, b"")
    data = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    assert failure(data).reason == "TooManyPixels"


def test_threads_leave_pillow_as_it_was() -> None:
    before, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    data = encoded(SCENE, "PNG")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: decode(data, max_pixels=3840 + i), range(64)))
    assert all(np.array_equal(pixels, SCENE) for pixels in results)
    assert before == Image.MAX_IMAGE_PIXELS
    assert list(warnings.filters) == filters


@pytest.mark.parametrize(("raised", "reason"), [(ValueError("odd"), "Corrupt"), (EOFError(), "Truncated")])
def test_bad_data_is_an_error_of_the_image(monkeypatch: pytest.MonkeyPatch, raised: Exception, reason: str) -> None:
    assert failing_png(monkeypatch, raised).reason == reason


def failing_png(monkeypatch: pytest.MonkeyPatch, raised: Exception) -> DecodeError:
    def factory(*_: Any) -> None:
        raise raised

    data = encoded(SCENE, "PNG")
    monkeypatch.setitem(Image.OPEN, "PNG", (factory, None))
    return failure(data)


def test_bugs_go_through(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AttributeError):
        failing_png(monkeypatch, AttributeError("a bug"))


def test_message_has_no_address_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    error = failing_png(monkeypatch, OSError(f"cannot read\n {io.BytesIO()!r}"))
    assert error.message == "PNG: cannot read an object"


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


# What each file must give, each looked at: (H, W) after orientation, or the reason of the error.
OUTCOMES: dict[str, tuple[int, int] | str] = {
    "16bit/pillow__12bit.cropped.tif": (100, 100),
    "16bit/pillow__tiff_16bit_RGB.tiff": (40, 100),
    "16bit/pillow_heif__RGB_16__128x128.png": (128, 128),
    "16bit/sharp__Flag_of_the_Netherlands-16bit.png": (600, 900),
    "alpha/libvips__rgba.png": (128, 128),
    "alpha/pillow__l_trns.png": (64, 64),
    "alpha/pillow__rgb_trns.png": (64, 64),
    "alpha/sharp__alpha-premultiply-1024x768-paper.png": (768, 1024),
    "alpha/sharp__grey-8bit-alpha.png": (300, 400),
    "animated/libavif__colors-animated-8bpc.avif": (150, 150),
    "animated/pillow__dispose_op_background.png": (64, 128),
    "animated/pillow__iss634.webp": (245, 245),
    "animated/sharp__rotating-squares.gif": (80, 80),
    "avif/libavif__cosmos1650_yuv444_10bpc_p3pq.avif": (428, 1024),
    "avif/libavif__sofa_grid1x5_420.avif": (770, 1024),
    "avif/pillow__hopper.avif": (128, 128),
    "bomb/libvips__17000x17000.avif": "TooManyPixels",
    "bomb/pillow__decompression_bomb_extents.gif": (100, 100),
    "bomb/pillow__png_decompression_dos.png": (1, 1),  # the bomb is a text
    "cmyk/pillow__pil_sample_cmyk.jpg": (100, 100),
    "cmyk/pillow__tiff_strip_cmyk_jpeg.tif": (100, 100),
    "cmyk/sharp__Channel_digital_image_CMYK_color_no_profile.jpg": (333, 500),
    "corrupt/exifsamples__image00971.jpg": (227, 636),
    "corrupt/pillow__broken.png": "Corrupt",
    "corrupt/pillow__crash-0c7e0e8e11ce787078f00b5b0ca409a167f070e0.tif": "Truncated",
    "corrupt/pillow__hopper_idat_after_image_end.png": (128, 128),
    "corrupt/pillow__reallybig.bmp": "TooManyPixels",
    "corrupt/pillow__shortfile.bmp": "Truncated",
    "corrupt/pillow__zero_width.gif": "ZeroSize",
    "corrupt/pillow_heif__empty.heic": "Empty",
    "exif_broken/pillow__broken_exif_dpi.jpg": (100, 100),
    "exif_broken/pillow__exif_typeerror.jpg": (531, 800),
    "exif_gps/exifsamples__DSCN0010.jpg": (480, 640),
    "exif_orientation/exifor__Landscape_0.jpg": (1200, 1800),
    "exif_orientation/exifor__Landscape_2.jpg": (1200, 1800),
    "exif_orientation/exifor__Landscape_4.jpg": (1200, 1800),
    "exif_orientation/exifor__Landscape_6.jpg": (1200, 1800),
    "exif_orientation/exifor__Landscape_8.jpg": (1200, 1800),
    "exif_orientation/exifor__Portrait_8.jpg": (1800, 1200),
    "exif_orientation/pillow__g4_orientation_6.tif": (88, 590),
    "exif_orientation/pillow__rot1mir0.avif": (427, 640),
    "exif_orientation/sharp__Landscape_9.jpg": (369, 480),
    "float/pillow__10ct_32bit_128.tiff": (128, 128),
    "grayscale/libvips__1bit.tif": (4, 256),
    "grayscale/pillow__hopper_gray.jpg": (128, 128),
    "hdr_gainmap/libavif__seine_sdr_gainmap_srgb.jpg": (300, 400),
    "heic/exifsamples__IMG_5195.HEIC": (3313, 2566),
    "heic/pillow_heif__RGBA_10__128x128.heif": (128, 128),
    "heic/pillow_heif__pug.heic": (3024, 4032),
    "huge/pillow_heif__200MP.heic": (16320, 12240),
    "jpeg2000/pillow__16bit.cropped.jp2": (64, 64),
    "multi_picture/pillow__frozenpond.mpo": (480, 640),
    "multi_picture/pillow__sugarshack_bad_mpo_header.jpg": (480, 640),
    "multipage/pillow__multipage.tiff": (10, 10),
    "multipage/sharp__G31D_MULTI.TIF": (3248, 2464),
    "not_photo/libvips__ISO_12233-reschart.pdf": "NotAnImage",
    "not_photo/libvips__logo.svg": "NotAnImage",
    "not_photo/libvips__sample.hdr": "NotAnImage",
    "not_photo/pillow__hopper.bmp": (128, 128),
    "palette/libvips__indexed.png": (442, 290),
    "palette/pillow__mode_palette_alpha.png": (64, 128),
    "palette/sharp__swiss.png": (68, 68),
    "panorama/pannellum__examplepano.jpg": (2048, 4096),
    "plain_photo/libvips__sample.jpg": (442, 290),
    "plain_photo/pillow__flower.webp": (360, 480),
    "plain_photo/sharp__320x240.jpg": (240, 320),
    "tiff_odd/libvips__ojpeg-tile.tif": (213, 234),
    "tiff_odd/pillow__hopper_bigtiff.tif": (128, 128),
    "tiff_odd/pillow__old-style-jpeg-compression.tif": (870, 4160),
    "tiny_or_thin/libavif__white_1x1.avif": (1, 1),
    "tiny_or_thin/pillow_heif__RGB_8__29x100.heif": (100, 29),
    "tiny_or_thin/sharp__big-height.webp": (169, 13),
    "truncated/libvips__truncated.gif": "Truncated",
    "truncated/pillow__truncated_image.png": "Truncated",
    "truncated/pillow_heif__truncated.heic": (16, 16),
    "truncated/sharp__truncated.png": "Truncated",
    "wide_gamut_icc/libvips__sample-xyb.jpg": (442, 290),
    "wide_gamut_icc/pillow__hopper.Lab.tif": (128, 128),
    "wide_gamut_icc/sharp__p3.png": (8, 8),
    "wrong_extension/libvips__looks-like-svg.webp": (256, 256),
}
# Mean colours where a wrong rule would show: inverted CMYK, white 16-bit, an ignored profile, black for transparent.
# sample.jpg (A98), sample-xyb.jpg and indexed.png are one photo in three codings, hopper.* likewise.
MEANS = {
    "16bit/pillow_heif__RGB_16__128x128.png": (127, 127, 128),
    "alpha/sharp__grey-8bit-alpha.png": (245.5, 245.5, 245.5),
    "alpha/sharp__alpha-premultiply-1024x768-paper.png": (244.4, 237, 235.6),
    "cmyk/pillow__pil_sample_cmyk.jpg": (30, 5, 7),
    "cmyk/pillow__tiff_strip_cmyk_jpeg.tif": (30, 5, 7),
    "cmyk/sharp__Channel_digital_image_CMYK_color_no_profile.jpg": (109, 132, 110),
    "multipage/pillow__multipage.tiff": (0, 128, 0),
    "plain_photo/libvips__sample.jpg": (127.6, 118, 108.4),
    "wide_gamut_icc/libvips__sample-xyb.jpg": (127.6, 118, 108.4),
    "palette/libvips__indexed.png": (127.6, 118, 108.4),
    "not_photo/pillow__hopper.bmp": (89.7, 80.1, 95.4),
    "avif/pillow__hopper.avif": (89.7, 80.1, 95.4),
    "corrupt/pillow__hopper_idat_after_image_end.png": (89.7, 80.1, 95.4),
    "tiff_odd/pillow__hopper_bigtiff.tif": (89.7, 80.1, 95.4),
    "wide_gamut_icc/pillow__hopper.Lab.tif": (89.7, 80.1, 95.4),
    "wide_gamut_icc/sharp__p3.png": (255, 0, 0),
}


@pytest.mark.skipif(not AWKWARD.is_dir(), reason="no shared/data/awkward beside the checkout")
def test_every_awkward_file_is_in_the_table() -> None:
    assert {entry["file"] for entry in json.loads((AWKWARD / "manifest.json").read_text())} == set(OUTCOMES)


@pytest.mark.skipif(not AWKWARD.is_dir(), reason="no shared/data/awkward beside the checkout")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name.startswith("huge/") else ()) for name in OUTCOMES]
)
@pytest.mark.timeout(120)  # the 200 megapixels take 5 to 12 seconds and 2.2 GB
def test_awkward(name: str) -> None:
    data, wanted = (AWKWARD / name).read_bytes(), OUTCOMES[name]
    if data[8:12] in (b"heic", b"mif1") and name.startswith(("heic/", "huge/", "tiny", "truncated/")):
        pytest.importorskip("pillow_heif")
    if isinstance(wanted, str):
        assert failure(data).reason == wanted
        return
    pixels = decode(data)
    assert pixels.shape == (*wanted, 3)
    if name in MEANS:
        assert np.abs(pixels.mean(axis=(0, 1)) - MEANS[name]).max() < 3
