"""Segments of logits of classes, against the plain definition."""

import pytest
import torch
from support import reference
from torch.nn.functional import interpolate

from m2f_batch.errors import ImageError
from m2f_batch.vision.masks import pixel_classes
from m2f_batch.vision.masks.frame import Frame
from m2f_batch.vision.postprocess import pixel_segments

# canvas, content, output: larger, padded and larger, smaller, a line, equal
FRAMES = [
    Frame((64, 96), (64, 96), (151, 233)),
    Frame((64, 96), (50, 81), (203, 310)),
    Frame((128, 160), (120, 160), (47, 61)),
    Frame((32, 128), (1, 128), (1, 300)),
    Frame((48, 64), (48, 64), (48, 64)),
]


def class_logits(seed: int, classes: int, size=(16, 24)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = 6 * torch.randn(1, classes, 4, 5, generator=generator)
    noise = torch.randn(classes, *size, generator=generator)
    return interpolate(coarse, size=size, mode="bicubic")[0] + 0.3 * noise


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("at_once", [1, 1 << 12, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_pixel_segments_are_those_of_the_plain_definition(monkeypatch, frame, at_once, dtype):
    monkeypatch.setitem(pixel_classes.AT_ONCE, "cpu", at_once)
    logits = class_logits(3, 7).to(dtype)
    exact = logits if dtype == torch.float64 else logits.float()
    expected = reference.pixel_classes(exact, **frame._asdict())
    assert len(expected) >= 2
    reference.assert_same(pixel_segments(logits, **frame._asdict()), expected)


@pytest.mark.parametrize("output", [(151, 233), (47, 61), (1, 300), (64, 96)])
@pytest.mark.parametrize("upsampling", ["nearest", "corners"])
def test_each_kind_of_upsampling_is_that_of_the_plain_definition(monkeypatch, upsampling, output):
    monkeypatch.setitem(pixel_classes.AT_ONCE, "cpu", 1 << 12)
    frame = {"canvas": (64, 96), "content": (64, 96), "output": output, "upsampling": upsampling}
    logits = class_logits(5, 7)
    reference.assert_same(pixel_segments(logits, **frame), reference.pixel_classes(logits, **frame))


def test_the_kinds_of_upsampling_differ():
    frame = {"canvas": (64, 96), "content": (64, 96), "output": (151, 233)}
    logits = class_logits(5, 7)
    masks = [
        [segment.counts for segment in pixel_segments(logits, **frame, upsampling=kind)]
        for kind in ("bilinear", "nearest", "corners")
    ]
    assert masks[0] != masks[1] != masks[2] != masks[0]


def test_equal_logits_go_to_the_first_class():
    (segment,) = pixel_segments(torch.zeros(3, 8, 8), canvas=(32, 32), content=(32, 32), output=(40, 50))
    assert (segment.category_id, segment.area, segment.score) == (0, 2000, pytest.approx(1 / 3, abs=1e-6))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_an_error(value):
    logits = class_logits(1, 3)
    logits[1, 2, 3] = value
    with pytest.raises(ImageError, match="NanLogits"):
        pixel_segments(logits, canvas=(64, 96), content=(64, 96), output=(64, 96))
