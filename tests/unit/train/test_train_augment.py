"""Order, shares and views: every image once per epoch, masks that move with their pixels."""

from itertools import chain

import numpy as np
import pytest
from PIL import Image

from m2f_batch.train.data.augment import View, draw_view, jitter_color
from m2f_batch.train.data.order import image_at, micro_batches, share


def test_every_image_comes_once_per_epoch_in_another_order():
    epochs = [[image_at(epoch * 11 + at, 11, seed=3) for at in range(11)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [image_at(at, 11, seed=4) for at in range(11)] != epochs[0]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_workers_and_micro_batches_share_a_step_without_gap_or_overlap(size, accumulate):
    for step in range(3):
        shares = [share(step, 17, rank, size) for rank in range(size)]
        parts = [micro_batches(positions, accumulate) for positions in shares]
        assert [*chain(*chain(*parts))] == [*range(step * 17, step * 17 + 17)]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_whole_view_changes_nothing():
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (30, 41, 3), dtype=np.uint8), rng.random((30, 41)) < 0.5
    view = View((30, 41), (30, 41), (0, 0), (30, 41), is_flipped=False)
    assert (view.image(image) == image).all()
    assert (view.mask(mask) == mask).all()


def test_a_view_that_fits_the_canvas_is_drawn_for_scale_one():
    view = draw_view(np.random.default_rng(0), (60, 80), (40, 40), (1.0, 1.0), flip=0.0)
    assert view == View((60, 80), (30, 40), (0, 0), (30, 40), is_flipped=False)


@pytest.mark.parametrize("image_hw", [(512, 683), (683, 512), (40, 40), (300, 2000), (4000, 90)])
def test_a_shortest_edge_is_resized_as_by_detectron2(image_hw):
    """``ResizeShortestEdge.get_output_shape`` of its ADE20K recipe: 512 x 0.5 to 2.0, 2048 at most."""
    for seed in range(20):
        shortest = 512 * np.random.default_rng(seed).uniform(0.5, 2.0)
        resized = [edge * shortest / min(image_hw) for edge in image_hw]
        if max(resized) > 2048:
            resized = [edge * 2048 / max(resized) for edge in resized]
        view = draw_view(np.random.default_rng(seed), image_hw, (512, 512), (0.5, 2.0), 0.5, "shortest_edge")
        assert view.scaled_hw == tuple(int(edge + 0.5) for edge in resized)
        assert view.content_hw == tuple(min(edge, 512) for edge in view.scaled_hw)
        assert all(0 <= at <= max(0, edge - 512) for at, edge in zip(view.offset, view.scaled_hw, strict=True))


def test_crops_are_everywhere_and_never_outside():
    rng = np.random.default_rng(1)
    views = [draw_view(rng, (50, 100), (32, 64), (0.1, 2.0), flip=0.5) for _ in range(500)]
    for view in views:
        assert all(o >= 0 and o + c <= s for o, c, s in zip(view.offset, view.content_hw, view.scaled_hw, strict=True))
        assert all(c == min(s, e) for c, s, e in zip(view.content_hw, view.scaled_hw, (32, 64), strict=True))
    assert 0.4 < np.mean([view.is_flipped for view in views]) < 0.6
    assert min(view.scaled_hw[0] for view in views) <= 4
    assert max(view.scaled_hw[0] for view in views) >= 62
    largest = [view.offset[1] for view in views if view.scaled_hw[1] > 120]
    assert min(largest) < 10
    assert max(largest) > 50


@pytest.mark.parametrize("seed", range(8))
def test_a_mask_moves_with_the_pixels_it_covers(seed):
    """A white rectangle on black: the view of the image is white where the view of its mask is set."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((90, 120), dtype=bool)
    mask[25:70, 30:100] = True
    image = np.repeat(mask[:, :, None], 3, 2).astype(np.uint8) * 255
    view = draw_view(rng, (90, 120), (64, 96), (0.4, 2.0), flip=0.5)
    seen, expected = view.mask(mask), view.image(image)[..., 0] > 127
    assert seen.shape == expected.shape == view.content_hw
    edge = np.zeros_like(seen)  # where a pixel is both, either answer is right
    for axis in (0, 1):
        changed = np.diff(seen, axis=axis) != 0
        for side in ((1, 0), (0, 1)):
            edge |= np.pad(changed, [side if at == axis else (0, 0) for at in (0, 1)])
    assert (seen == expected)[~edge].all()
    assert (seen != expected).sum() <= 0.5 * edge.sum() + 1


def test_a_crop_is_the_part_of_the_whole_resized_image():
    rng = np.random.default_rng(2)
    image = np.asarray(Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((160, 120)))
    whole = View((120, 160), (180, 240), (0, 0), (180, 240), is_flipped=False)
    crop = View((120, 160), (180, 240), (30, 45), (100, 90), is_flipped=True)
    part = whole.image(image)[30:130, 45:135][:, ::-1].astype(int)
    assert np.abs(crop.image(image)[2:-2, 2:-2] - part[2:-2, 2:-2]).max() <= 1
    mask = image[..., 0] > 127
    assert (crop.mask(mask) == whole.mask(mask)[30:130, 45:135][:, ::-1]).all()


def test_color_is_drawn_from_the_generator_and_bounded():
    image = np.full((4, 4, 3), (100, 150, 200), dtype=np.uint8)
    assert jitter_color(np.random.default_rng(0), image, 0.0) is image
    colors = np.array([jitter_color(np.random.default_rng(seed), image, 1.0)[0, 0] for seed in range(200)], dtype=int)
    again = np.array([jitter_color(np.random.default_rng(seed), image, 1.0)[0, 0] for seed in range(200)], dtype=int)
    assert (colors == again).all()
    assert len(np.unique(colors, axis=0)) > 150
    assert abs(colors.mean(0) - (100, 150, 200)).max() < 12
