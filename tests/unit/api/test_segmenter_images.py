"""What is no image for a Segmenter is said in words of Python, with what makes an image of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import DEMO_MODEL
from PIL import Image

import m2f_batch
from m2f_batch.vision.decode.given import checked_one

SHAPE = (8, 8, 3)
RAMP = np.linspace(0, 1, 192).reshape(SHAPE)


@pytest.fixture(scope="module")
def segmenter() -> m2f_batch.Segmenter:
    return m2f_batch.Segmenter.from_pretrained(DEMO_MODEL)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (RAMP, "(image * 255).round().astype('uint8')"),
        (RAMP > 0.5, "(image * 255).round().astype('uint8')"),
        (RAMP * 255, "image.round().astype('uint8')"),
        ((RAMP * 255).astype(int), "image.round().astype('uint8')"),
        ((RAMP * 65535).astype(np.uint16), "(image / 257).round().astype('uint8')"),
        ((RAMP * 4095).astype(np.uint16), "(image >> 4).astype('uint8')"),
        ((RAMP * 255).astype(np.uint16), "image.round().astype('uint8')"),
    ],
)
def test_an_array_of_other_numbers_is_told_what_makes_uint8_of_it(image: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=r"^images: is an array of ") as caught:
        checked_one(image, "images")
    assert str(caught.value).endswith(f"; give {said}")
    made = eval(said, {"image": image})
    assert checked_one(made, "images") is made
    assert made.min() == 0 and made.max() == 255


@pytest.mark.parametrize(
    "image", [np.full((8, 8), "a"), np.zeros((8, 8), complex), np.zeros((3, 8, 8), np.uint8), RAMP - 0.5, RAMP * 900]
)
def test_an_array_that_no_scaling_mends_is_told_of_none(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^images: is an array of .*\(RGBA\)$"):
        checked_one(image, "images")


def _after_its_block(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image


def _closed(path: Path) -> Image.Image:
    image = Image.open(path)
    image.close()
    return image


def _loaded_and_closed(path: Path) -> Image.Image:
    image = Image.open(path).convert("L")
    image.close()
    return image


@pytest.mark.parametrize("closed", [_after_its_block, _closed, _loaded_and_closed])
def test_a_closed_image_is_a_mistake(
    closed: Callable[[Path], Image.Image], segmenter: m2f_batch.Segmenter, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(path)
    with pytest.raises(ValueError, match=r"^images: is a closed PIL image; give it before it is closed, or a copy"):
        segmenter(closed(path))
    with Image.open(path) as still_open, pytest.raises(ValueError, match=r"^images\[1\]: is a closed PIL image"):
        segmenter([still_open, closed(path)])
    with Image.open(path) as image:
        image.load()
    assert isinstance(segmenter(image), list), "its pixels are there"


def test_a_picture_of_the_web_says_how_it_is_allowed(
    segmenter: m2f_batch.Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("M2F_BATCH_ALLOW", raising=False)
    url = "https://example.com/cat.jpg"
    with pytest.raises(m2f_batch.ImageError) as caught:
        segmenter(url)
    how = "the web is read only where M2F_BATCH_ALLOW names the host; add https://example.com/ to it, and the other pla"
    assert str(caught.value).startswith(f"image 0: fetch: NotAllowed: {url}: {how}")
    monkeypatch.setenv("M2F_BATCH_ALLOW", "/photos")
    with pytest.raises(m2f_batch.ImageError, match="lies outside the allow-list"):
        segmenter(url)


@pytest.mark.parametrize(("uri", "wanted"), [("gs://", "gs://BUCKET/KEY"), ("abfs://b", "abfs://CONTAINER@ACCOUNT.")])
def test_a_store_without_its_bucket_is_told_what_is_wanted(uri: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=rf"^run: .*\.\.\.: wanted {wanted}"):
        m2f_batch.open_run(uri)


def test_a_file_of_weights_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "best.pt").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^model: 'clean/best.pt' is a file \(.pt\), which is not read; give a Hugg"):
        m2f_batch.Segmenter.from_pretrained("clean/best.pt")
