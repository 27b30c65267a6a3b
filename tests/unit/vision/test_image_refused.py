"""What is no image, is cut off, or claims too much is refused in words, with no memory taken."""

import io
import struct
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.image_files import AWKWARD, RNG, ROOT, SCENE, encoded, failure, png, tiff

from m2f_batch.errors import DecodeError
from m2f_batch.vision.decode.image import decode


@pytest.fixture(autouse=True)
def _no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


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
