"""RLE against pycocotools and the plain runs of the column-major mask."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from m2f_batch.vision.masks.rle import decode_mask, encode_mask, run_lengths


def plain_runs(mask: np.ndarray) -> list[int]:
    pixels = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(np.diff(pixels))
    runs = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return runs.tolist()


@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (41, 1), (7, 9), (120, 333), (2000, 3)])
def test_codes(density, shape):
    mask = np.random.default_rng(0).random(shape) < density
    code = encode_mask(mask)
    oracle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert code.counts.encode() == oracle["counts"]
    assert code.area == mask.sum()
    assert list(code.bbox) == coco_mask.toBbox(oracle).tolist()
    assert (decode_mask(code.counts, shape) == mask).all()
    runs = run_lengths(code.counts).tolist()
    assert runs == plain_runs(mask)


def test_bbox_is_that_of_the_mask():
    mask = np.zeros((40, 50), bool)
    mask[3:9, 20:35] = True
    assert encode_mask(mask).bbox == (20.0, 3.0, 15.0, 6.0)
