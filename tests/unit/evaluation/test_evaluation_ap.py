"""Average precision against pycocotools itself, on drawn and on real images: every number of its curves."""

import json
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from m2f_batch.evaluation.metrics.average_precision import AveragePrecision, accumulate
from m2f_batch.evaluation.metrics.image import Detections, ImageGroundTruth
from m2f_batch.evaluation.metrics.matching import DETECTION, match_image

STATS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def oracle(truths: list[ImageGroundTruth], founds: list[Detections], isthing: np.ndarray) -> COCOeval:
    """COCOeval of the same; areas are those of the masks."""
    annotations, results = [], []
    for truth, found in zip(truths, founds, strict=True):
        for category, crowd, rle in zip(truth.categories, truth.iscrowd, truth.rles, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": truth.image_id,
                    "category_id": int(category) + 1,
                    "iscrowd": int(crowd),
                    "area": int(coco_mask.area(rle)),
                    "segmentation": rle,
                    "bbox": coco_mask.toBbox(rle).tolist(),
                }
            )
        for category, score, rle in zip(found.categories, found.scores, found.rles, strict=True):
            results.append(
                {"image_id": truth.image_id, "category_id": int(category) + 1, "score": score, "segmentation": rle}
            )
    with redirect_stdout(StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [
                {"id": truth.image_id, "height": truth.size_hw[0], "width": truth.size_hw[1]} for truth in truths
            ],
            "annotations": annotations,
            "categories": [{"id": int(k) + 1, "name": str(k)} for k in np.flatnonzero(isthing)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_equal_to_oracle(
    truths: list[ImageGroundTruth], founds: list[Detections], isthing: np.ndarray
) -> dict[str, Any]:
    theirs, ours = oracle(truths, founds, isthing), AveragePrecision(isthing)
    for truth, found in zip(truths, founds, strict=True):
        ours.add(match_image(found, truth, isthing))
    overall, each = ours.summary()
    wanted = [None if value == -1 else pytest.approx(value, abs=1e-12) for value in theirs.stats]
    assert [overall[name] for name in STATS] == wanted
    precision, recall = accumulate(np.concatenate(ours.detections), ours.objects)
    np.testing.assert_allclose(precision[:, :, isthing], theirs.eval["precision"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(recall[:, isthing], theirs.eval["recall"], rtol=0, atol=1e-12)
    assert (precision[:, :, ~isthing] == -1).all()
    for place, k in enumerate(np.flatnonzero(isthing)):
        mine = theirs.eval["precision"][:, :, place, 0, 2]
        assert each[k]["AP"] == (None if mine.max() == -1 else pytest.approx(mine[mine > -1].mean(), abs=1e-12))
    return overall


def encoded(mask: np.ndarray) -> dict[str, Any]:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def drawn(rng: np.random.Generator, image_id: int, objects: int, guesses: int) -> tuple[ImageGroundTruth, Detections]:
    """An image up to 300 pixels wide of ellipses of all sizes, and guesses that are moved copies of them, or not."""
    size = (int(rng.integers(60, 240)), int(rng.integers(60, 300)))
    y, x = np.mgrid[: size[0], : size[1]]

    def ellipse(cy: float, cx: float, ry: float, rx: float) -> np.ndarray:
        mask = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
        mask[int(cy) % size[0], int(cx) % size[1]] = True
        return mask

    shapes = [(*rng.uniform(0, size), *rng.uniform(2, rng.choice([12, 40, 120]), 2)) for _ in range(objects)]
    categories = rng.integers(0, 5, objects)
    found, found_categories = [], []
    for _ in range(guesses):
        if objects and rng.random() < 0.8:
            of = rng.integers(objects)
            found.append(ellipse(*np.maximum(np.array(shapes[of]) + rng.normal(0, 1.5, 4), 1)))
            found_categories.append(categories[of] if rng.random() < 0.9 else rng.integers(0, 5))
        else:
            found.append(ellipse(*rng.uniform(0, size), *rng.uniform(2, 60, 2)))
            found_categories.append(rng.integers(0, 5))
    truth = ImageGroundTruth(
        image_id,
        size,
        categories,
        rng.random(objects) < 0.15,
        [encoded(ellipse(*shape)) for shape in shapes],
        None,
    )
    scores = np.round(rng.random(guesses), 1 + image_id % 3)  # many equal ones
    return truth, Detections(np.array(found_categories, np.int64), scores, [encoded(mask) for mask in found])


@pytest.mark.parametrize("seed", range(6))
def test_drawn_images_have_the_curves_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    isthing = np.array([True, True, seed % 2 == 0, True, True, True])  # the last is nowhere
    pairs = [drawn(rng, 7 * number + 3, *rng.integers(0, [12, 40])) for number in range(25)]
    truths, founds = [truth for truth, _ in pairs], [found for _, found in pairs]
    overall = assert_equal_to_oracle(truths, founds, isthing)
    assert 0.1 < overall["AP"] < 0.9


def test_more_than_100_detections_of_a_category():
    rng = np.random.default_rng(9)
    truth, found = drawn(rng, 1, 8, 330)
    found = Detections(found.categories % 2, found.scores, found.rles)
    truth = ImageGroundTruth(1, truth.size_hw, truth.categories % 2, truth.iscrowd, truth.rles, None)
    assert_equal_to_oracle([truth], [found], np.ones(2, bool))
    assert len(match_image(found, truth, np.ones(2, bool)).detections) == 200


def test_equal_overlaps_crowds_and_sizes_on_the_border_of_a_range():
    size = (120, 120)

    def box(top: int, left: int, height: int, width: int) -> dict[str, Any]:
        mask = np.zeros(size, bool)
        mask[top : top + height, left : left + width] = True
        return encoded(mask)

    # 32 x 32 is small and medium, 96 x 96 medium and large; doubled objects, and one under a crowd
    boxes = [box(0, 0, 32, 32), box(0, 0, 32, 32), box(20, 20, 96, 96), box(0, 0, 60, 60), box(100, 100, 5, 5)]
    truth = ImageGroundTruth(1, size, np.zeros(5, np.int64), np.array([0, 0, 0, 1, 0], bool), boxes, None)
    guesses = [boxes[0], boxes[0], boxes[0], boxes[2], box(0, 0, 60, 50), box(100, 100, 5, 4), box(70, 0, 10, 10)]
    found = Detections(np.zeros(7, np.int64), np.array([0.5, 0.5, 0.5, 0.9, 0.4, 0.5, 0.5]), guesses)
    assert_equal_to_oracle([truth], [found], np.ones(1, bool))


def test_real_objects_moved_by_some_pixels(shared_data):
    rng = np.random.default_rng(0)
    tree = json.loads((shared_data / "coco_tiny" / "annotations" / "instances_val2017.json").read_text())
    places = {category["id"]: place for place, category in enumerate(tree["categories"])}
    with redirect_stdout(StringIO()):
        coco = COCO()
        coco.dataset = tree
        coco.createIndex()
    truths, founds = [], []
    for image in tree["images"]:
        annotations = coco.imgToAnns[image["id"]]
        rles = [coco.annToRLE(annotation) for annotation in annotations]
        categories = np.array([places[annotation["category_id"]] for annotation in annotations], np.int64)
        crowd = np.array([annotation["iscrowd"] for annotation in annotations], bool)
        truths.append(ImageGroundTruth(image["id"], (image["height"], image["width"]), categories, crowd, rles, None))
        found = []
        for rle in rles:
            shift = rng.integers(-4, 5, 2)
            found.append(encoded(np.roll(coco_mask.decode(rle), shift, (0, 1))))
        kept = [place for place in range(len(rles)) if rng.random() < 0.9] * 2
        scores = rng.random(len(kept)).astype(np.float32)
        founds.append(Detections(categories[kept], scores.astype(float), [found[place] for place in kept]))
    assert any(truth.iscrowd.any() for truth in truths)
    overall = assert_equal_to_oracle(truths, founds, np.ones(len(places), bool))
    assert 0.2 < overall["AP"] < 0.9


def test_the_order_of_images_and_merging_change_nothing():
    rng = np.random.default_rng(4)
    isthing = np.ones(5, bool)
    pairs = [drawn(rng, number, 6, 20) for number in range(12)]
    whole, left, right = (AveragePrecision(isthing) for _ in range(3))
    for truth, found in pairs:
        whole.add(match_image(found, truth, isthing))
    for number, (truth, found) in enumerate(reversed(pairs)):
        (left, right)[number % 2].add(match_image(found, truth, isthing))
    right.merge(left)
    assert right.summary() == whole.summary()


def test_nothing_found_is_zero_and_nothing_to_find_is_none():
    truth, _ = drawn(np.random.default_rng(1), 1, 4, 0)
    nothing = Detections(np.zeros(0, np.int64), np.zeros(0), [])
    isthing = np.ones(5, bool)
    truth = ImageGroundTruth(1, truth.size_hw, np.zeros(4, np.int64), np.zeros(4, bool), truth.rles, None)
    ours = AveragePrecision(isthing)
    ours.add(match_image(nothing, truth, isthing))
    overall, each = ours.summary()
    assert (overall["AP"], each[0]["AP"], each[0]["AR100"], each[1]["AP"]) == (0, 0, 0, None)
    assert DETECTION.itemsize == 37
    empty = ImageGroundTruth(2, (5, 5), np.zeros(0, np.int64), np.zeros(0, bool), [], None)
    ours = AveragePrecision(isthing)
    ours.add(match_image(nothing, empty, isthing))
    assert ours.summary()[0]["AP"] is None
