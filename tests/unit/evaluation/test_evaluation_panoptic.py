"""PQ, IoU, Dice and boundary IoU against their definitions, written out pixel by pixel."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from m2f_batch.evaluation.metrics.boundary import boundary, boundary_width
from m2f_batch.evaluation.metrics.class_regions import ClassRegions
from m2f_batch.evaluation.metrics.image import Detections, ImageGroundTruth
from m2f_batch.evaluation.metrics.matched_pairs import MatchedPairs
from m2f_batch.evaluation.metrics.matching import match_image
from m2f_batch.evaluation.metrics.panoptic_quality import PanopticQuality
from m2f_batch.evaluation.metrics.regions import inverted

CLASSES = 5
ISTHING = np.array([True, True, True, False, False])
VOID = 0


def encoded(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def id_map(rng, size, segments):
    """Blocks of ids 1 ... segments, and some of 0."""
    coarse = rng.integers(0, segments + 1, (6, 8))
    return np.kron(coarse, np.ones((size[0] // 6, size[1] // 8), int))


def image_of(rng, image_id, size=(48, 64)):
    """A true and a found id map that are alike, the category of every id, and which are crowds."""
    true = id_map(rng, size, 9)
    true_ids = [i for i in np.unique(true) if i != VOID]
    categories = dict(zip(true_ids, rng.integers(0, CLASSES, len(true_ids)).tolist(), strict=True))
    found = np.where(
        np.isin(true, rng.permutation(10)[:4]), id_map(rng, size, 9), np.roll(true, rng.integers(-3, 4), 1)
    )
    found_ids = [i for i in np.unique(found) if i != VOID]
    guessed = {
        i: categories[i] if i in categories and rng.random() < 0.8 else int(rng.integers(CLASSES)) for i in found_ids
    }
    crowds: dict[int, int] = {}
    for i in true_ids:
        if rng.random() < 0.25 and ISTHING[categories[i]]:
            crowds.setdefault(categories[i], i)
    truth = ImageGroundTruth(
        image_id,
        size,
        np.array([categories[i] for i in true_ids]),
        np.array([i in crowds.values() for i in true_ids]),
        [encoded(true == i) for i in true_ids],
        encoded(true == VOID) if (true == VOID).any() else None,
    )
    result = Detections(
        np.array([guessed[i] for i in found_ids], np.int64),
        rng.random(len(found_ids)),
        [encoded(found == i) for i in found_ids],
    )
    return truth, result, (true, found, categories, guessed, set(crowds.values()))


def plain_pq(images):
    """Kirillov et al. 2019 with void and crowds as in panopticapi, of dense id maps: PQ, SQ, RQ and n by category."""
    iou, tp, fp, fn = (dict.fromkeys(range(CLASSES), 0.0) for _ in range(4))
    for true, found, categories, guessed, crowds in images:
        hit, used = set(), set()
        for g, category in categories.items():
            for p, guess in guessed.items():
                if g in crowds or category != guess:
                    continue
                common = ((true == g) & (found == p)).sum()
                union = ((true == g) | (found == p)).sum() - ((true == VOID) & (found == p)).sum()
                if common / union > 0.5:
                    tp[category] += 1
                    iou[category] += common / union
                    hit.add(g)
                    used.add(p)
        for g, category in categories.items():
            fn[category] += g not in hit and g not in crowds
        for p, guess in guessed.items():
            mask = found == p
            crowd = sum(((true == g) & mask).sum() for g in crowds if categories[g] == guess)
            fp[guess] += p not in used and not (((true == VOID) & mask).sum() + crowd) / mask.sum() > 0.5
    whole = {k: tp[k] + fp[k] / 2 + fn[k] / 2 for k in range(CLASSES)}
    return {
        k: (iou[k] / whole[k], iou[k] / tp[k] if tp[k] else 0.0, tp[k] / whole[k]) for k in range(CLASSES) if whole[k]
    }


@pytest.mark.parametrize("seed", range(4))
def test_panoptic_quality_is_its_definition(seed):
    rng = np.random.default_rng(seed)
    images = [image_of(rng, number) for number in range(20)]
    left, right = PanopticQuality(ISTHING), PanopticQuality(ISTHING)
    for number, (truth, found, _) in enumerate(images):
        (left, right)[number % 2].add(found, truth)
    left.merge(right)
    overall, each = left.summary()
    wanted = plain_pq([maps for _, _, maps in images])
    for k, values in wanted.items():
        assert [each[k][name] for name in ("PQ", "SQ", "RQ")] == pytest.approx(values, abs=1e-12)
    assert 0.1 < overall["PQ"] < 0.9
    for ending, kinds in (("", {True, False}), ("_th", {True}), ("_st", {False})):
        mine = [values for k, values in wanted.items() if bool(ISTHING[k]) in kinds]
        for place, name in enumerate(("PQ", "SQ", "RQ")):
            assert overall[name + ending] == pytest.approx(np.mean([values[place] for values in mine]), abs=1e-12)


def test_what_lies_in_a_crowd_or_in_no_class_is_not_wrong():
    size = (10, 10)
    ids = np.repeat([[0, 1, 2, 3, 3]], 10, 0).repeat(2, 1)  # void, a crowd of 0, an object of 1, one of 2
    truth = ImageGroundTruth(
        1, size, np.array([0, 1, 2]), np.array([True, False, False]), [encoded(ids == i) for i in (1, 2, 3)],
        encoded(ids == 0),
    )  # fmt: skip
    columns = np.arange(10)[None, :].repeat(10, 0)
    masks = [columns < 1, (columns >= 1) & (columns < 4), (columns >= 4) & (columns < 6), columns >= 6]
    found = Detections(np.array([2, 0, 0, 2]), np.ones(4), [encoded(mask) for mask in masks])
    quality = PanopticQuality(ISTHING)
    quality.add(found, truth)
    assert quality.wrong.tolist() == [1, 0, 0, 0, 0]  # only the guess of 0 where a 1 is
    assert quality.matched.tolist() == [0, 0, 1, 0, 0]
    assert quality.missed.tolist() == [0, 1, 0, 0, 0]


def test_class_regions_are_counts_of_pixels():
    rng = np.random.default_rng(11)
    images = [image_of(rng, number) for number in range(15)]
    sums = ClassRegions(CLASSES, frozenset({"miou", "dice", "boundary-iou"}))
    other = ClassRegions(CLASSES, frozenset({"miou", "dice", "boundary-iou"}))
    common, union, total, edge_common, edge_union = np.zeros((5, CLASSES))
    for number, (truth, found, (true, guess, categories, guessed, _)) in enumerate(images):
        (sums, other)[number % 2].add(found, truth)
        true_class = np.vectorize(lambda i, of=categories: of.get(i, -1))(true)
        found_class = np.vectorize(lambda i, of=guessed: of.get(i, -1))(guess)
        valid = true != VOID
        for k in range(CLASSES):
            t, f = true_class == k, found_class == k
            common[k] += (t & f & valid).sum()
            union[k] += ((t | f) & valid).sum()
            total[k] += (t & valid).sum() + (f & valid).sum()
            t, f = plain_boundary(t), plain_boundary(f)
            edge_common[k] += (t & f & valid).sum()
            edge_union[k] += ((t | f) & valid).sum()
    sums.merge(other)
    overall, each = sums.summary()
    assert [values["IoU"] for values in each] == pytest.approx(common / union, abs=1e-12)
    assert [values["Dice"] for values in each] == pytest.approx(2 * common / total, abs=1e-12)
    assert [values["boundary_IoU"] for values in each] == pytest.approx(edge_common / edge_union, abs=1e-12)
    assert overall["mIoU"] == pytest.approx((common / union).mean(), abs=1e-12)
    assert overall["boundary_IoU"] < overall["mIoU"]


def test_a_class_that_only_was_found_is_zero_and_in_no_mean():
    truth = ImageGroundTruth(1, (4, 4), np.array([0]), np.array([False]), [encoded(np.ones((4, 4)))], None)
    found = Detections(np.array([0, 1]), np.ones(2), [encoded(np.eye(4) == 0), encoded(np.eye(4) == 1)])
    sums = ClassRegions(3, frozenset({"miou"}))
    sums.add(found, truth)
    assert sums.summary() == ({"mIoU": 0.75}, [{"IoU": 0.75}, {"IoU": 0.0}, {"IoU": None}])


def plain_boundary(mask):
    """Cheng et al.'s mask_to_boundary: the mask without what d erosions by 3x3 leave of it, all outside being 0."""
    height, width = mask.shape
    distance = max(1, round(0.02 * np.sqrt(height**2 + width**2)))
    left = np.pad(mask, 1)
    for _ in range(distance):
        padded = np.pad(left, 1)
        left = np.all([padded[dy : dy + height + 2, dx : dx + width + 2] for dy in range(3) for dx in range(3)], axis=0)
    return mask & ~left[1:-1, 1:-1]


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (300, 7), (90, 120), (333, 500), (64, 64)])
def test_boundaries_are_those_of_erosion(size):
    rng = np.random.default_rng(size[0])
    assert boundary_width(size) == max(1, round(0.02 * np.hypot(*size)))
    y, x = np.mgrid[: size[0], : size[1]]
    masks = [np.ones(size, bool), np.zeros(size, bool), rng.random(size) < 0.97]
    masks += [
        np.hypot(y - rng.uniform(0, size[0]), x - rng.uniform(0, size[1])) < rng.uniform(3, 200) for _ in range(6)
    ]
    for mask in masks:
        mine = boundary(encoded(mask))
        assert mine == encoded(plain_boundary(mask))
        assert inverted(encoded(mask)) == encoded(~mask)


def test_matched_pairs_are_means_over_what_was_found():
    size = (60, 80)

    def box(top, left, height, width):
        mask = np.zeros(size, bool)
        mask[top : top + height, left : left + width] = True
        return mask

    true = [box(0, 0, 20, 20), box(30, 30, 20, 20), box(30, 0, 20, 20), box(0, 60, 10, 10)]
    guess = [box(0, 0, 20, 18), box(32, 30, 20, 20), box(0, 30, 20, 20), box(30, 0, 20, 20)]
    truth = ImageGroundTruth(1, size, np.array([0, 0, 1, 0]), np.array([0, 0, 0, 1], bool), [*map(encoded, true)], None)
    found = Detections(np.array([0, 0, 0, 1]), np.array([0.9, 0.8, 0.7, 0.6]), [*map(encoded, guess)])
    pairs = MatchedPairs(3, frozenset({"dice", "boundary-iou"}))
    pairs.add(match_image(found, truth, np.ones(3, bool)), found, truth)
    overall, each = pairs.summary()

    def dice(a, b):
        return 2 * (a & b).sum() / (a.sum() + b.sum())

    def edge_iou(a, b):
        a, b = plain_boundary(a), plain_boundary(b)
        return (a & b).sum() / (a | b).sum()

    wanted = [np.mean([measure(true[i], guess[i]) for i in (0, 1)]) for measure in (dice, edge_iou)]
    assert [each[0]["Dice"], each[0]["boundary_IoU"], each[0]["found"]] == pytest.approx([*wanted, 1.0], abs=1e-12)
    assert each[1] == {"Dice": 1.0, "boundary_IoU": 1.0, "found": 1.0}
    assert each[2] == {"Dice": None, "boundary_IoU": None, "found": None}
    assert overall["Dice"] == pytest.approx((wanted[0] + 1) / 2, abs=1e-12)
