"""Outlines of masks: filled again by pycocotools they are the mask, whatever its parts and holes."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy import ndimage

from m2f_batch.datasets.masks import areas, even_odd_rle, label_map_rle, polygons_rle, union_rle
from m2f_batch.shapes.contours import loops_of, one_path, rings_of
from m2f_batch.vision.masks.rle import decode_mask, encode_mask

MASKS = 400


def masks(seed: int):
    """Noise of any density, in single pixels and in blocks, down to one pixel wide."""
    rng = np.random.default_rng(seed)
    for number in range(MASKS):
        mask = rng.random(rng.integers(1, 25, 2)) < rng.random()
        yield np.kron(mask, np.ones((3, 2), bool)) if number % 3 == 0 else mask


def flat(points):
    return [value for point in points for value in point]


@pytest.mark.parametrize("seed", range(3))
def test_outlines_are_the_mask_again(seed):
    for mask in masks(seed):
        counts, size = encode_mask(mask).counts, mask.shape
        loops = loops_of(mask)
        assert sum(not loop.is_hole for loop in loops) == ndimage.label(mask, np.ones((3, 3)))[1]
        assert sum(loop.is_hole for loop in loops) == ndimage.label(~np.pad(mask, 1))[1] - 1
        if loops:
            assert even_odd_rle([flat(loop.points) for loop in loops], size) == counts
            assert polygons_rle([flat(one_path(loops))], size) == counts  # one polygon with seams


def test_outlines_turn_clockwise_and_holes_against_it():
    """So that filling by winding number gives the same."""
    for mask in masks(7):
        for loop in loops_of(mask):
            x, y = np.array(loop.points).T
            area = (x * np.roll(y, -1) - y * np.roll(x, -1)).sum()
            assert (area < 0) == loop.is_hole
            assert (np.abs(np.diff([*loop.points, loop.points[0]], axis=0)) > 0).sum() == len(loop.points)


@pytest.mark.parametrize("seed", range(2))
def test_label_maps_and_unions(seed):
    rng = np.random.default_rng(seed)
    for _ in range(50):
        labels = rng.integers(0, 5, rng.integers(1, 30, 2)).astype(rng.choice(["uint8", "uint16", "int32"]))
        codes = label_map_rle(labels)
        assert codes == {int(v): encode_mask(labels == v).counts for v in np.unique(labels)}
        assert areas(codes.values(), labels.shape) == [int((labels == v).sum()) for v in np.unique(labels)]
        joined = union_rle([*codes.values()][:2], labels.shape)
        np.testing.assert_array_equal(decode_mask(joined, labels.shape), np.isin(labels, [*codes][:2]))


def test_rings_are_one_for_each_part_and_the_mask_again():
    for mask in masks(11):
        rings = rings_of(mask)
        assert len(rings) == ndimage.label(mask, np.ones((3, 3)))[1]
        if rings:
            codes = coco_mask.frPyObjects(rings, *mask.shape)
            np.testing.assert_array_equal(coco_mask.decode(coco_mask.merge(codes)), mask)


def test_an_island_in_a_hole_has_a_ring_of_its_own():
    mask = np.ones((7, 7), bool)
    mask[1:6, 1:6] = False
    mask[3, 3] = True
    around, island = rings_of(mask)
    assert island == [3, 3, 4, 3, 4, 4, 3, 4]
    assert around[:8] == [0, 0, 7, 0, 7, 7, 0, 7] and len(around) == 20
