"""Logits to segments against the plain definition, and the traps of other implementations one by one."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from support import reference

from m2f_batch.errors import ImageError
from m2f_batch.explain.definition import define
from m2f_batch.vision.masks.frame import Frame
from m2f_batch.vision.postprocess import instance_segments, panoptic_segments, semantic_segments

FUNCTIONS = {"instance": instance_segments, "panoptic": panoptic_segments, "semantic": semantic_segments}
SETTINGS = {"panoptic": {"mask_threshold": 0.5}, "semantic": {}}
# canvas, content, output: no padding, padding on both sides, shrinking, thin
FRAMES = [
    ((64, 96), (64, 96), (75, 110)),
    ((64, 96), (50, 81), (133, 200)),
    ((64, 64), (64, 40), (31, 20)),
    ((32, 128), (5, 128), (3, 77)),
]


def logits(seed: int, queries: int = 12, classes: int = 5, size=(16, 24)):
    """Smooth blobs with confident classes, so that every task finds several segments."""
    generator = torch.Generator().manual_seed(seed)
    class_logits = 3 * torch.randn(queries, classes + 1, generator=generator)
    coarse = 6 * torch.randn(queries, 4, 5, generator=generator)
    masks = torch.nn.functional.interpolate(coarse[None], size=size, mode="bicubic")[0]
    return class_logits, masks + 0.1 * torch.randn(masks.shape, generator=generator)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_equals_the_plain_definition(frame, seed, dtype):
    sizes = dict(zip(("canvas", "content", "output"), frame, strict=True))
    class_logits, mask_logits = (x.to(dtype) for x in logits(seed))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for task, options in {
        "instance": {"score_threshold": 0.1, "stuff_ids": frozenset({1})},
        "panoptic": {"score_threshold": 0.3, "overlap_threshold": 0.3, "stuff_ids": frozenset({0, 1})},
        "semantic": {},
    }.items():
        found = FUNCTIONS[task](class_logits, mask_logits, **sizes, **options)
        expected = getattr(reference, task)(class_logits.to(wide), mask_logits.to(wide), **sizes, **options)
        assert len(expected) >= 2, "the case must not be empty"
        reference.assert_same(found, expected)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_switches_equal_the_plain_definition(frame, seed, dtype):
    sizes = dict(zip(("canvas", "content", "output"), frame, strict=True))
    class_logits, mask_logits = (x.to(dtype) for x in logits(seed))
    for task, options in {
        "panoptic": {
            "keep_unsure": True,
            "score_threshold": 0.3,
            "overlap_threshold": 0.3,
            "stuff_ids": frozenset({1}),
        },
        "semantic": {"masks_first": True},
    }.items():
        found = FUNCTIONS[task](class_logits, mask_logits, **sizes, **options)
        expected = getattr(reference, task)(class_logits, mask_logits, **sizes, **options)
        assert len(expected) >= 2, "the case must not be empty"
        reference.assert_same(found, expected)
        defined = define(class_logits.float(), mask_logits.float(), task, Frame(**sizes), SETTINGS[task] | options)
        assert [s.category_id for s in defined.segments] == [r.category_id for r in expected]


def test_a_sum_at_the_output_looks_at_few_queries_of_many():
    class_logits, mask_logits = logits(3, queries=40, classes=60, size=(24, 32))
    mask_logits[8:] -= 40  # votes of nothing, which take no part
    sizes = {"canvas": (96, 128), "content": (90, 120), "output": (400, 500)}
    found = semantic_segments(class_logits, mask_logits, **sizes, masks_first=True)
    reference.assert_same(found, reference.semantic(class_logits, mask_logits, **sizes, masks_first=True))
    apart = semantic_segments(class_logits, mask_logits, **sizes)
    assert [s.counts for s in apart] != [s.counts for s in found], "the order of the steps decides pixels"


@pytest.mark.parametrize("mask_threshold", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("top_k", [1, 7, 100])
def test_instance_options(mask_threshold, top_k):
    sizes = {"canvas": (64, 96), "content": (60, 90), "output": (120, 180)}
    options = {"mask_threshold": mask_threshold, "top_k": top_k, "score_threshold": 0.0}
    class_logits, mask_logits = logits(9)
    found = instance_segments(class_logits, mask_logits, **sizes, **options)
    reference.assert_same(found, reference.instance(class_logits, mask_logits, **sizes, **options))


def test_codes_are_those_of_pycocotools():
    class_logits, mask_logits = logits(2)
    for segment in instance_segments(
        class_logits, mask_logits, canvas=(64, 96), content=(64, 96), output=(100, 150), score_threshold=0.0
    ):
        rle = coco_mask.encode(np.asfortranarray(segment.mask().astype(np.uint8)))
        assert segment.counts.encode() == rle["counts"]
        assert segment.area == coco_mask.area(rle) == segment.mask().sum()
        assert list(segment.bbox) == coco_mask.toBbox(rle).tolist()


def one_object(score_logit: float = 9.0):
    """One query that owns the left half of the canvas and belongs to class 0."""
    class_logits = torch.tensor([[score_logit, 0.0, 0.0]])
    masks = torch.full((1, 8, 8), -9.0)
    masks[:, :, :4] = 9.0
    return class_logits, masks


def test_padding_is_cropped_before_the_mask_grows_to_the_image():
    # the content is the left half of the canvas, so the object fills the whole image
    class_logits, masks = one_object()
    masks[:] = -9.0
    masks[:, :, :5] = 9.0
    (segment,) = instance_segments(class_logits, masks, canvas=(32, 32), content=(32, 16), output=(60, 30))
    assert segment.area == 60 * 30


def test_one_query_may_give_two_rows():
    class_logits, masks = torch.tensor([[2.0, 2.0, -9.0]]), one_object()[1]
    found = instance_segments(
        class_logits, masks, canvas=(32, 32), content=(32, 32), output=(32, 32), score_threshold=0.4
    )
    assert [s.category_id for s in found] == [0, 1], "equal scores: the lower class first"
    assert found[0].counts == found[1].counts


def test_ties_go_to_the_lowest_query():
    class_logits = torch.tensor([[4.0, 0.0, 0.0]] * 3)
    masks = torch.stack([one_object()[1][0]] * 3)
    sizes = {"canvas": (32, 32), "content": (32, 32), "output": (32, 32)}
    (panoptic,) = panoptic_segments(class_logits, masks, **sizes)
    # every pixel has three equal owners: the first takes them all, the others are dropped
    assert panoptic.area == instance_segments(class_logits, masks, **sizes, top_k=1)[0].area


def test_stuff_is_merged_with_the_best_score_and_ids_are_unique():
    class_logits = torch.tensor([[5.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 7.0, 0.0]])
    masks = torch.full((3, 8, 12), -9.0)
    masks[0, :, :4], masks[1, :, 8:], masks[2, :, 4:8] = 9.0, 9.0, 9.0
    sizes = {"canvas": (32, 48), "content": (32, 48), "output": (32, 48)}
    stuff, thing = panoptic_segments(class_logits, masks, **sizes, stuff_ids=frozenset({0}))
    assert (stuff.category_id, thing.category_id, stuff.id, thing.id) == (0, 1, 1, 2)
    assert stuff.score == pytest.approx(float(class_logits.softmax(-1)[1, 0]), abs=1e-6)
    assert not (stuff.mask() & thing.mask()).any()
    assert len(panoptic_segments(class_logits, masks, **sizes)) == 3, "without stuff ids the two stay apart"


def test_owned_pixels_under_the_threshold_count_for_the_ratio_but_not_for_the_mask():
    # query 0 owns everything, also where its p < 0.5: ratio > 1, kept, and the mask is the confident part only
    class_logits, masks = one_object()
    (segment,) = panoptic_segments(class_logits, masks, canvas=(32, 32), content=(32, 32), output=(32, 32))
    assert segment.area == 32 * 16


def test_with_keep_unsure_a_segment_is_all_that_its_query_owns():
    class_logits, masks = one_object()
    sizes = {"canvas": (32, 32), "content": (32, 32), "output": (32, 32)}
    (segment,) = panoptic_segments(class_logits, masks, **sizes, keep_unsure=True)
    assert segment.area == 32 * 32
    assert panoptic_segments(class_logits, masks - 20, **sizes, keep_unsure=True) == [], "it has no mask of its own"


def test_panoptic_drops_what_is_mostly_covered():
    class_logits = torch.tensor([[5.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    masks = torch.full((2, 8, 8), -9.0)
    masks[0, :, :6], masks[1, :, :5] = 4.0, 9.0
    sizes = {"canvas": (32, 32), "content": (32, 32), "output": (32, 32)}
    assert len(panoptic_segments(class_logits, masks, **sizes)) == 1
    assert len(panoptic_segments(class_logits, masks, **sizes, overlap_threshold=0.1)) == 2


def test_semantic_covers_every_pixel_once():
    class_logits, mask_logits = logits(5)
    found = semantic_segments(class_logits, mask_logits, canvas=(64, 96), content=(64, 96), output=(70, 101))
    assert sum(segment.mask().astype(int) for segment in found).tolist() == np.ones((70, 101), int).tolist()
    assert [s.area for s in found] == sorted((s.area for s in found), reverse=True)


def test_nothing_found_is_an_empty_list():
    class_logits, masks = one_object(-9.0)
    sizes = {"canvas": (32, 32), "content": (32, 32), "output": (32, 32)}
    assert instance_segments(class_logits, masks, **sizes) == []
    assert panoptic_segments(class_logits, masks, **sizes) == []


@pytest.mark.parametrize("task", sorted(FUNCTIONS))
@pytest.mark.parametrize("where", ["class", "mask"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_are_an_error_of_the_image(task, where, value):
    class_logits, masks = one_object()
    (class_logits if where == "class" else masks).view(-1)[0] = value
    with pytest.raises(ImageError, match="NanLogits") as caught:
        FUNCTIONS[task](class_logits, masks, canvas=(32, 32), content=(32, 32), output=(32, 32))
    assert caught.value.stage == "postprocess"
