"""Examples from rows: targets by task, masks in view, and clear errors for images that are not as annotated."""

import numpy as np
import pytest
from PIL import Image

from m2f_batch.errors import RunError
from m2f_batch.train.data import samples
from m2f_batch.train.data.samples import Recipe, make_sample, targets_of
from m2f_batch.vision.masks.rle import decode_mask, encode_mask

HEIGHT, WIDTH = 40, 60
AS_IS = {"scale": (1.0, 1.0), "flip": 0.0, "color": 0.0, "seed": 0}


def box(top, left, bottom, right):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


MASKS = [box(0, 0, 20, 30), box(10, 20, 30, 50), box(5, 5, 15, 15), box(30, 0, 40, 60)]
SEGMENTS = [
    {"category": category, "iscrowd": crowd, "counts": encode_mask(mask).counts}
    for category, crowd, mask in zip((0, 0, 1, 2), (False, False, True, False), MASKS, strict=True)
]


@pytest.fixture
def row(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    uri = str(tmp_path / "a.png")
    return {"image_id": 9, "uri": uri, "height": HEIGHT, "width": WIDTH, "segments": SEGMENTS, "ignored": None}


def decoded(targets):
    return [(label, decode_mask(counts, (HEIGHT, WIDTH)).tolist()) for label, counts in targets]


def test_instances_are_all_but_crowds_and_unlearned_categories():
    found = targets_of(SEGMENTS, (HEIGHT, WIDTH), "instance", (4, 5, -1))
    assert decoded(found) == [(4, MASKS[0].tolist()), (4, MASKS[1].tolist())]


def test_semantic_targets_are_the_union_of_a_class_crowds_too():
    found = targets_of(SEGMENTS, (HEIGHT, WIDTH), "semantic", (4, 1, 2))
    union = (MASKS[0] | MASKS[1]).tolist()
    assert decoded(found) == [(1, MASKS[2].tolist()), (2, MASKS[3].tolist()), (4, union)]


def test_an_example_at_scale_one_is_the_image_with_its_masks(row):
    sample = make_sample(row, 0, Recipe("panoptic", (0, 1, 2), (HEIGHT, WIDTH), **AS_IS))
    assert (sample.image == np.asarray(Image.open(row["uri"]))).all()
    assert sample.labels.tolist() == [0, 0, 2]
    assert (sample.masks() == np.stack([MASKS[0], MASKS[1], MASKS[3]])).all()
    assert (sample.image_id, sample.uri, sample.content_hw) == (9, row["uri"], (HEIGHT, WIDTH))


def test_an_example_depends_on_its_position_and_the_seed_only(row, monkeypatch):
    def recipe(seed):
        return Recipe("panoptic", (0, 1, 2), (32, 32), (0.5, 2.0), 0.5, 1.0, seed)

    def same(a, b):
        return a.image.shape == b.image.shape and (a.image == b.image).all() and a.counts == b.counts

    first = [make_sample(row, position, recipe(3)) for position in range(12)]
    monkeypatch.setattr(samples, "AT_ONCE", 1)  # masks are decoded one by one
    again = [make_sample(row, position, recipe(3)) for position in reversed(range(12))][::-1]
    other = [make_sample(row, position, recipe(4)) for position in range(12)]
    assert all(map(same, first, again))
    assert not any(map(same, first, other))
    assert not any(map(same, first, first[1:]))


def test_what_is_out_of_view_is_no_target(row):
    recipe = Recipe("panoptic", (0, 1, 2), (16, 16), (8.0, 8.0), 0.0, 0.0, 0)
    found = [make_sample(row, position, recipe) for position in range(40)]
    assert {len(sample.labels) for sample in found} >= {0, 1, 2}
    for sample in found:
        assert sample.masks().any((1, 2)).all()
        assert sample.masks().shape == (len(sample.labels), *sample.content_hw)


def test_what_counts_for_nothing_moves_along(row):
    void = box(0, 55, 40, 60)
    recipe = Recipe("panoptic", (0, 1, 2), (HEIGHT, WIDTH), (1.0, 1.0), 1.0, 0.0, 0)
    flipped = make_sample(row | {"ignored": encode_mask(void).counts}, 0, recipe)
    assert (flipped.ignored_mask() == void[:, ::-1]).all()
    assert make_sample(row, 0, recipe).ignored_mask() is None


def test_an_image_of_another_size_than_annotated_is_refused(row):
    with pytest.raises(RunError, match=r"a\.png has 60 x 40 pixels, its annotations are for 60 x 41; m2f-batch lint"):
        make_sample(row | {"height": 41}, 0, Recipe("panoptic", (0, 1, 2), (32, 32), **AS_IS))


def test_a_missing_or_broken_image_is_named(row, tmp_path):
    recipe = Recipe("panoptic", (0, 1, 2), (32, 32), **AS_IS)
    with pytest.raises(RunError, match=r"gone\.png cannot be used"):
        make_sample(row | {"uri": str(tmp_path / "gone.png")}, 0, recipe)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    with pytest.raises(RunError, match=r"broken\.png cannot be used \(decode: "):
        make_sample(row | {"uri": str(tmp_path / "broken.png")}, 0, recipe)
