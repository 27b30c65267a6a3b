"""A segment gives its mask, its outlines and its picture, and a list of them becomes detections of supervision."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from m2f_batch.errors import ArgumentError
from m2f_batch.records import Segment
from m2f_batch.vision.detections import to_supervision
from m2f_batch.vision.masks.rle import encode_mask
from m2f_batch.vision.pictures import plot

HEIGHT, WIDTH = 40, 60


def segment(top: int, left: int, height: int, width: int, *, number: int = 1, name: str = "ball") -> Segment:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    code = encode_mask(mask)
    return Segment(number, number + 6, name, 0.75, code.area, code.bbox, code.counts, (HEIGHT, WIDTH))


BOX = segment(10, 20, 8, 5)


def test_a_polygon_is_a_segmentation_of_coco():
    assert BOX.polygon() == [[20.0, 10.0, 25.0, 10.0, 25.0, 18.0, 20.0, 18.0]]
    codes = coco_mask.frPyObjects(BOX.polygon(), HEIGHT, WIDTH)
    assert coco_mask.merge(codes)["counts"].decode() == BOX.counts


def test_a_plot_tints_the_segment_and_nothing_else():
    gray = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    picture = BOX.plot(gray)
    changed = (np.asarray(picture) != gray).any(axis=2)
    assert picture.size == (WIDTH, HEIGHT) and changed[BOX.mask()].all()
    assert not changed[25:].any(), "the name is written over the segment"
    assert (gray == 100).all()


def test_a_plot_takes_the_image_as_a_segmenter_does(tmp_path: Path):
    """By the one decode policy: as a path, as bytes, turned upright, and 16 bits of gray not white."""
    rgb = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = 6  # to be turned a quarter clockwise
    Image.fromarray(np.rot90(rgb).copy()).save(tmp_path / "turned.png", exif=exif)
    deep = Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)
    for given, shown in (
        (tmp_path / "turned.png", rgb),
        (bytearray((tmp_path / "turned.png").read_bytes()), rgb),
        (np.dstack([rgb, np.zeros((HEIGHT, WIDTH), np.uint8)]), np.full_like(rgb, 255)),
        (deep, np.stack([rgb[..., 0]] * 3, axis=2)),
    ):
        np.testing.assert_array_equal(np.asarray(BOX.plot(given))[25:], shown[25:])
        assert BOX.plot(given).tobytes() == plot(given, [BOX]).tobytes()


def test_a_plot_refuses_what_is_not_its_image():
    with pytest.raises(ArgumentError, match=r"^image: is 60 x 40 pixels .* masks are 40 x 60"):
        BOX.plot(np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    with pytest.raises(ValueError, match=r"^image: is an array of float64, \[40, 60\]; allowed: .* uint8"):
        BOX.plot(np.zeros((HEIGHT, WIDTH)))
    with pytest.raises(ValueError, match=r"^image: is not one image; allowed: a path"):
        BOX.plot([np.zeros((HEIGHT, WIDTH, 3), np.uint8)])  # type: ignore[arg-type]


@pytest.mark.parametrize("take", [lambda segments: plot(np.zeros((HEIGHT, WIDTH), np.uint8), segments), to_supervision])
def test_what_are_no_segments_of_one_image_is_the_callers_mistake(take: Callable[[Any], object]):
    with pytest.raises(ValueError, match=r"^segments\[0\]: is of type list; allowed: the segments of one image"):
        take([[BOX]])
    with pytest.raises(ValueError, match=r"^segments: is of type Segment; allowed: "):
        take(BOX)


class Detections:
    """The constructor of supervision's, as of 0.26: it checks shapes, and takes these and ``tracker_id``."""

    def __init__(self, xyxy, mask=None, confidence=None, class_id=None, tracker_id=None, data=None, metadata=None):
        count = len(xyxy)
        assert xyxy.shape == (count, 4)
        assert mask is None or (mask.ndim == 3 and len(mask) == count and mask.dtype == bool)
        assert all(each is None or each.shape == (count,) for each in (confidence, class_id, tracker_id))
        assert all(len(value) == count for value in (data or {}).values())
        self.xyxy, self.mask, self.confidence, self.class_id, self.data = xyxy, mask, confidence, class_id, data or {}

    @classmethod
    def empty(cls):
        return cls(np.empty((0, 4), np.float32), None, np.empty(0, np.float32), np.empty(0, int))


@pytest.mark.parametrize("is_real", [False, True])
def test_segments_become_detections(is_real: bool, monkeypatch: pytest.MonkeyPatch):
    """Of the stand-in above, and of supervision itself where somebody has it."""
    if is_real:
        pytest.importorskip("supervision")
    else:
        module = ModuleType("supervision")
        module.Detections = Detections  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "supervision", module)
    other = segment(0, 0, 4, 60, number=2, name="sky")
    found = to_supervision([BOX, other])
    assert found.xyxy.tolist() == [[20, 10, 25, 18], [0, 0, 60, 4]]
    np.testing.assert_array_equal(found.mask, np.stack([BOX.mask(), other.mask()]))
    assert found.confidence.tolist() == [0.75, 0.75] and found.class_id.tolist() == [7, 8]
    assert found.data["class_name"].tolist() == ["ball", "sky"]
    assert len(to_supervision([]).xyxy) == 0


def test_without_supervision_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision") as raised:
        to_supervision([BOX])
    assert "\n" not in str(raised.value)
