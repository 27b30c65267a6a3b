"""The parts of lint against plain definitions: near hashes, equal masks, slivers, boxes that contradict, warnings."""

import itertools

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from m2f_batch.datasets.coco.boxes import contradiction, stated_by
from m2f_batch.datasets.dataset import Category, Stated, dataset_of
from m2f_batch.datasets.lint.copies import copy_findings
from m2f_batch.datasets.lint.images import Seen
from m2f_batch.datasets.lint.masks import SAME, Setting, sliver, twins
from m2f_batch.datasets.lint.near_copies import MOST_BITS, Print, are_alike, near_pairs, print_of
from m2f_batch.datasets.lint.warnings import queries_of, warnings_of
from m2f_batch.errors import UsageError
from m2f_batch.vision.masks.rle import encode_mask

SETTING = Setting((512, 512), (0.1, 2.0), 100)


@pytest.mark.parametrize("most", range(MOST_BITS + 1))
def test_near_hashes_are_those_that_all_pairs_give(most):
    rng = np.random.default_rng(most)
    known = rng.integers(0, 2**64, 60, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in rng.permutation(64)[: number % 8]) for number in range(200)]
    bits = np.unique(np.concatenate([known, known[np.arange(200) % 60] ^ np.array(flips, np.uint64)]))
    wanted = [
        [i, j]
        for i in range(len(bits))
        for j in range(i + 1, len(bits))
        if (int(bits[i]) ^ int(bits[j])).bit_count() <= most
    ]
    assert near_pairs(bits, most).tolist() == wanted


def test_a_hash_is_whether_each_pixel_is_darker_than_the_next():
    gray = np.random.default_rng(0).permutation(72).reshape(8, 9).astype(np.uint8) * 3
    image = np.asarray(Image.fromarray(gray).convert("RGB"))
    wanted = "".join(str(int(right > left)) for row in gray for left, right in itertools.pairwise(row))
    assert f"{print_of(image).bits:064b}" == wanted


def test_flat_pictures_are_never_alike():
    flat, other = bytes([7] * 256), bytes(range(256))
    assert not are_alike(flat, flat)
    assert are_alike(other, other)


@pytest.mark.slow
def test_thousands_of_images_of_one_hash_are_not_all_compared():
    rng = np.random.default_rng(0)
    seen = [Seen(number.to_bytes(4), Print(0, rng.bytes(256))) for number in range(3000)]
    seen[10] = Seen(b"a", seen[3].print)
    found = [*copy_findings([f"/{number}" for number in range(3000)], [False] * 3000, seen)]
    assert [(finding.kind, finding.where) for finding in found] == [("similar-images", "/10")]


def test_equal_masks_are_those_that_all_ious_give():
    rng = np.random.default_rng(0)
    masks = []
    for _ in range(25):
        top, left = rng.integers(0, 30, 2)
        mask = np.zeros((64, 64), np.uint8)
        mask[top : top + 30, left : left + 30] = 1
        masks.append(mask)
        if rng.random() < 0.5:
            near = mask.copy()
            near[top, left : left + int(rng.integers(0, 60))] = 0
            masks.append(near)
    rles = coco_mask.encode(np.asfortranarray(np.stack(masks, axis=2)))
    classes = rng.integers(0, 2, len(masks)).tolist()
    flat = np.stack(masks).reshape(len(masks), -1).astype(bool)
    wanted = {}
    for second in range(len(masks)):
        for first in range(second):
            iou = (flat[first] & flat[second]).sum() / (flat[first] | flat[second]).sum()
            if classes[first] == classes[second] and iou > SAME:
                wanted[second] = max(iou, wanted.get(second, 0))
    found = {second: iou for _, second, iou in twins(classes, rles, coco_mask.area(rles))}
    assert wanted
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("area", "box", "ratio", "text"),
    [
        (0, (0, 0, 0, 0), 1.0, None),  # not a sliver, but nothing
        (9, (0, 0, 3, 3), 1.0, "9 pixels"),
        (60, (0, 0, 60, 1), 4.0, "1.0 pixels thick"),
        (100, (0, 0, 100, 100), 1.0, "1.0 pixels thick"),  # a diagonal
        (400, (0, 0, 4, 100), 0.2, "0.80 pixels thick on the training canvas"),
        (400, (0, 0, 4, 100), 0.3, None),
        (16, (0, 0, 4, 4), 1.0, None),
    ],
)
def test_a_sliver_has_few_pixels_or_is_thin(area, box, ratio, text):
    said = sliver(area, np.array(box, float), ratio)
    assert said is None if text is None else text in said


def test_stuff_may_be_thin():
    assert sliver(100, np.array([0.0, 0, 100, 100]), 1.0, isthing=False) is None


def test_the_canvas_scales_an_image_until_it_fits():
    assert SETTING.ratio((1024, 512)) == 0.5
    assert Setting((512, 512), (0.1, 0.5), 1).ratio((512, 256)) == 0.5
    assert Setting((512, 256), (2.0, 3.0), 1).ratio((512, 256)) == 2.0


@pytest.mark.parametrize(
    ("bbox", "area", "text"),
    [
        ([10, 10, 40, 30], 1200, None),
        ([10.5, 9.2, 39, 31.1], 1187.4, None),  # of a polygon, not of its pixels
        ([10, 10, 50, 40], None, "its box is [10, 10, 50, 40]"),  # corners, not sides
        ([110, 10, 40, 30], 1200, "its box is"),
        ([10, 10, 40, 30], 4800, "its area is 4800, that of its mask 900"),
        (None, 900, None),
        (None, 1, "its area is 1"),
        (None, None, None),
    ],
)
def test_boxes_and_areas_are_held_against_the_mask(bbox, area, text):
    said = contradiction(Stated("", bbox, area), 900, [10.0, 10.0, 40.0, 30.0])
    assert said is None if text is None else text in said


def test_what_is_no_box_or_area_claims_nothing():
    assert stated_by({"bbox": [1, 2, 3], "area": "9"}, "here") == Stated("here", None, None)
    assert stated_by({"bbox": [10, 10, 40, float("nan")], "area": float("inf")}, "here") == Stated("here", None, None)
    assert stated_by({}, "here") == Stated("here", None, None)


def test_queries_are_those_of_the_config_then_of_the_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text('{"num_queries": 200}')
    assert queries_of({"num_queries": 50}, tmp_path) == 50
    assert queries_of({}, tmp_path) == 200
    assert queries_of({}, None) == queries_of({}, tmp_path / "none") == 100
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"^model\.uri: config\.json of .* is not valid JSON: "):
        queries_of({}, tmp_path)


def dataset(*uris):
    rows = []
    for number, uri in enumerate(uris):
        mask = np.zeros((40, 50), bool)
        for row in range(number + 3, 30):
            mask[row, 5 : 20 + (row * 7 + number) % 13] = True
        segments = [{"category": 0, "iscrowd": False, "counts": encode_mask(mask).counts}]
        rows.append({"image_id": number, "uri": uri, "height": 40, "width": 50, "segments": segments})
    return dataset_of([Category(1, "cell", True)], rows)


def test_warnings_name_images_whose_masks_are_the_same():
    assert warnings_of(dataset("/a", "/b"), None, SETTING, None) == []
    (line,) = warnings_of(dataset("/a", "/b"), dataset("/c"), SETTING, None)
    assert line.startswith("warning leaked-image: 1 (/c: has the masks of /a, which is trained on)")


def test_a_group_on_both_sides_is_refused_where_groups_are_asked_for():
    train, val = dataset("/p1/a", "/p2/b"), dataset("/p3/x", "/p4/y", "/p2/z")
    assert not any("group" in line for line in warnings_of(train, val, SETTING, None))
    with pytest.raises(
        UsageError, match=r"data.group_by: group '/p2' is on both sides.*1 to validate with, e.g. /p2/z"
    ):
        warnings_of(train, val, SETTING, "folder")
