"""The spellings of a COCO segmentation against pycocotools' reading of the plain one."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from m2f_batch.datasets.coco.images_and_categories import flag, whole
from m2f_batch.datasets.coco.shapes import Fault, Shape, read_shape
from m2f_batch.datasets.masks import without_rle

SIZE = (12, 17)
TRIANGLE, SQUARE = [1.5, 2.0, 14.2, 3.3, 7.0, 11.1], [2.0, 2.0, 6.0, 2.0, 6.0, 6.0, 2.0, 6.0]


def pairs(flat):
    return [[*point] for point in zip(flat[::2], flat[1::2], strict=True)]


def drawn(polygons):
    return coco_mask.merge(coco_mask.frPyObjects(polygons, *SIZE))["counts"].decode()


def runs_of(mask):
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=1 - flat[-1]))
    return np.diff(edges, prepend=0).tolist()


def random_mask(seed):
    return (np.random.default_rng(seed).random(SIZE) < 0.4).astype(np.uint8)


@pytest.mark.parametrize(
    ("value", "polygons"),
    [
        ([TRIANGLE, SQUARE], [TRIANGLE, SQUARE]),
        ([pairs(TRIANGLE), SQUARE], [TRIANGLE, SQUARE]),
        (TRIANGLE, [TRIANGLE]),
        (pairs(TRIANGLE), [TRIANGLE]),
        (json.dumps([TRIANGLE]), [TRIANGLE]),
        ([TRIANGLE, [1, 2, 3, 4]], [TRIANGLE]),
        ([[], TRIANGLE, [5.0, 5.0]], [TRIANGLE]),
    ],
)
def test_polygons_in_all_their_spellings(value, polygons):
    shape = read_shape(value, SIZE)
    assert isinstance(shape, Shape)
    assert shape.counts(SIZE) == drawn(polygons)
    assert shape.dropped == (len(value) - len(polygons) if value[-1] in ([1, 2, 3, 4], [5.0, 5.0]) else 0)


@pytest.mark.parametrize("seed", range(8))
def test_rle_in_all_its_spellings(seed):
    mask = random_mask(seed)
    wanted = coco_mask.encode(np.asfortranarray(mask))["counts"]
    runs = runs_of(mask)
    spellings = [
        wanted.decode(),
        str(wanted),
        f" {wanted.decode()}\n",
        runs,
        [float(run) for run in runs],
        [str(run) for run in runs],
        [*wanted],
    ]
    for counts in spellings:
        for size in ([12, 17], [12.0, 17.0], ["12", "17"]):
            value = {"size": size, "counts": counts}
            for spelled in (value, [value], json.dumps(value)):
                shape = read_shape(spelled, SIZE)
                assert isinstance(shape, Shape), (counts, size, shape)
                assert shape.counts(SIZE).encode() == wanted


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, "no-mask", "has no 'segmentation': a box is not enough to learn masks from"),
        (float("nan"), "no-mask", "has no 'segmentation': a box is not enough to learn masks from"),
        ("[]", "no-mask", "has no 'segmentation': a box is not enough to learn masks from"),
        (
            {"size": [17, 12], "counts": "x"},
            "mask-size",
            "its RLE has the size [17, 12], its image [12, 17] (height, width): its height and width are swapped",
        ),
        ({"counts": [203]}, "invalid-mask", "the runs of its RLE add up to 203 pixels, its image has 204"),
        (
            {"size": [12, 17], "counts": [200]},
            "invalid-mask",
            "the runs of its RLE add up to 200 pixels, its image has 204",
        ),
        ({"size": [12, 17], "counts": "b'no"}, "invalid-mask", "its compressed RLE is none"),
        (
            {"size": [12, 17], "counts": "1 3 10 5"},
            "invalid-mask",
            "the runs of its RLE add up to 19 pixels, its image has 204",
        ),
        ([[1, 2, 3, 4, 5, 6, 7]], "invalid-mask", "a polygon needs x and y of at least 3 points, not 7 numbers"),
        ([[1, 2, 3, 4]], "invalid-mask", "a polygon needs x and y of at least 3 points, not 4 numbers"),
        (
            "a mask",
            "invalid-mask",
            "'segmentation' must be a list of polygons or an RLE with 'counts'",
        ),
    ],
)
def test_what_is_no_mask(value, kind, text):
    assert read_shape(value, SIZE) == Fault(kind, text)


@pytest.mark.parametrize(
    ("value", "number", "is_set"),
    [
        (0, 0, False),
        (1.0, 1, True),
        ("1", 1, True),
        (" 7.00 ", 7, None),
        (-3.0, -3, None),
        (True, None, True),
        (None, None, False),
        (float("nan"), None, False),
        (float("inf"), None, None),
        ("", None, None),
        ("1_000", None, None),
        ("٣", None, None),
        (1e300, int(1e300), None),
        ([1], None, None),
    ],
)
def test_numbers_and_flags_as_programs_spell_them(value, number, is_set):
    assert whole(value) == number
    assert flag(value) is is_set


@pytest.mark.parametrize("seed", range(20))
def test_a_mask_without_others(seed):
    masks = [random_mask(3 * seed + number) for number in range(3)]
    codes = [coco_mask.encode(np.asfortranarray(mask))["counts"].decode() for mask in masks]
    left = without_rle(codes[0], codes[1:], SIZE)
    wanted = masks[0] & ~(masks[1] | masks[2]) & 1
    assert left.encode() == coco_mask.encode(np.asfortranarray(wanted))["counts"]
