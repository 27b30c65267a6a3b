"""Segments of queries whose classes are sigmoids, as RF-DETR has them, against the plain definition."""

import pytest
import torch
from support import reference
from torch.nn.functional import interpolate

from m2f_batch.errors import ImageError
from m2f_batch.models.predictions import SigmoidQueryLogits
from m2f_batch.vision.masks.frame import Frame
from m2f_batch.vision.postprocess import segments_of, sigmoid_instance_segments

CANVAS = (96, 96)


def query_logits(seed: int, queries=12, classes=5, size=24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    coarse = 6 * torch.randn(1, queries, 4, 4, generator=generator)
    masks = interpolate(coarse, size=(size, size), mode="bicubic")[0]
    masks += 0.3 * torch.randn(queries, size, size, generator=generator)
    return 3 * torch.randn(queries, classes, generator=generator), masks


def both(logits, output, **settings):
    frame = {"canvas": CANVAS, "content": CANVAS, "output": output}
    ours = sigmoid_instance_segments(*logits, **frame, **settings)
    expected = reference.sigmoid_instance(*logits, output=output, **settings)
    reference.assert_same(ours, expected)
    return ours


@pytest.mark.parametrize("output", [(151, 233), (40, 61), (1, 300), (24, 24), (96, 96)])
@pytest.mark.parametrize(
    "settings",
    [{}, {"score_threshold": 0.0, "top_k": 12}, {"mask_threshold": 0.8}, {"top_k": 3}, {"stuff_ids": {0, 2}}],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_segments_are_those_of_the_plain_definition(output, settings, dtype):
    logits = tuple(each.to(dtype) for each in query_logits(3))
    exact = logits if dtype == torch.float64 else tuple(each.float() for each in logits)
    frame = {"canvas": CANVAS, "content": CANVAS, "output": output}
    expected = reference.sigmoid_instance(*exact, output=output, **settings)
    assert len(expected) >= 3
    reference.assert_same(sigmoid_instance_segments(*logits, **frame, **settings), expected)


def test_one_query_gives_a_segment_for_each_of_its_classes_and_the_masks_overlap():
    class_logits, masks = query_logits(1)
    class_logits[:] = -9
    class_logits[4, [1, 3]] = torch.tensor([2.0, 1.0])
    class_logits[5, 0] = 0.5
    masks[5] = masks[4]
    segments = both((class_logits, masks), (60, 80))
    assert [segment.category_id for segment in segments] == [1, 3, 0]
    assert len({segment.counts for segment in segments}) == 1


def test_an_empty_mask_is_a_segment_still():
    class_logits, masks = query_logits(1)
    class_logits[:] = -9
    class_logits[2, 1] = 4
    masks[2] = -1
    (segment,) = both((class_logits, masks), (60, 80))
    assert (segment.area, segment.bbox) == (0, (0.0, 0.0, 0.0, 0.0))
    frame = {"canvas": CANVAS, "content": CANVAS, "output": (60, 80)}
    assert sigmoid_instance_segments(class_logits, masks, **frame, keep_empty=False) == []
    assert segment.score == pytest.approx(torch.tensor(4.0).sigmoid().item(), abs=1e-7)


def test_the_score_must_be_above_its_threshold_and_ties_go_to_the_first():
    class_logits, masks = torch.zeros(3, 2), query_logits(1, queries=3)[1]
    assert both((class_logits, masks), (30, 40)) == []
    segments = both((class_logits, masks), (30, 40), score_threshold=0.49, top_k=4)
    assert [segment.category_id for segment in segments] == [0, 1, 0, 1]
    assert segments[0].counts == segments[1].counts != segments[2].counts == segments[3].counts


def test_mask_logits_go_to_the_image_in_one_step_whatever_the_canvas():
    logits = query_logits(2)
    counts = [
        [segment.counts for segment in sigmoid_instance_segments(*logits, canvas=hw, content=hw, output=(61, 83))]
        for hw in ((24, 24), (96, 96))
    ]
    assert counts[0] == counts[1]


def test_a_prediction_finds_its_function_and_keeps_its_parts_together():
    logits = query_logits(2)
    prediction = SigmoidQueryLogits(*(each[None].repeat_interleave(2, 0) for each in logits)).of_image(1).cpu()
    frame = Frame(CANVAS, CANVAS, (61, 83))
    found = segments_of(prediction, "instance", frame, {"top_k": 7})
    assert found == sigmoid_instance_segments(*logits, **frame._asdict(), top_k=7)


@pytest.mark.parametrize("part", [0, 1])
def test_logits_that_are_not_finite_are_an_error(part):
    logits = query_logits(1)
    logits[part].view(-1)[3] = torch.nan
    with pytest.raises(ImageError, match="NanLogits"):
        both(logits, (30, 40))
