"""The parts that post-processing is made of, each against the dense way."""

import numpy as np
import pytest
import torch
from support import reference
from torch.nn.functional import interpolate

from m2f_batch.vision.masks import label_tiles, panoptic
from m2f_batch.vision.masks import semantic as winners
from m2f_batch.vision.masks.cells import Cells, over_corners
from m2f_batch.vision.masks.frame import Frame, content_planes, spans_of, steps_of
from m2f_batch.vision.masks.instance import areas_of, shapes_of
from m2f_batch.vision.masks.label_tiles import Tile, bounds_of, codes_of, contenders, grow_tile, highest
from m2f_batch.vision.masks.resample import axis_of, grow
from m2f_batch.vision.masks.rle import encode_edges, encode_mask
from m2f_batch.vision.postprocess import instance_segments, panoptic_segments, semantic_segments

# canvas, content, output: larger, padded and larger, smaller, a line, equal
FRAMES = [
    Frame((64, 96), (64, 96), (151, 233)),
    Frame((64, 96), (50, 81), (203, 310)),
    Frame((128, 160), (120, 160), (47, 61)),
    Frame((32, 128), (1, 128), (1, 300)),
    Frame((48, 64), (48, 64), (48, 64)),
]


KINDS = ["blobs", "parts", "noise"]


def random_logits(seed: int, queries: int, kind: str, size=(16, 24)) -> torch.Tensor:
    """Blobs that overlap, parts of the image that do not, as a model gives them; or noise, which no pruning eases."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(queries, *size, generator=generator)
    if kind == "noise":
        return 4 * noise
    coarse = 8 * torch.randn(queries, 4, 5, generator=generator)
    blobs = interpolate(coarse[None], size=size, mode="bicubic")[0] + 0.2 * noise
    if kind == "blobs":
        return blobs
    first, second = blobs.topk(2, 0).values
    return 3 * (blobs - torch.where(blobs == first, second, first))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_axis_has_the_weights_of_torch(dtype):
    """To one unit in the last place of the position: torch's own kernels differ by a fused multiply-add."""
    generator = np.random.default_rng(0)
    for _ in range(60):
        size_in, size_out = int(generator.integers(1, 1400)), int(generator.integers(1, 4500))
        axis = axis_of(size_in, size_out, dtype, torch.device("cpu"))
        # on 0, 1, 0, 1, ... an interpolated value is a weight, without a rounding of its own
        parity = (np.arange(size_in) % 2).astype(axis.weight.numpy().dtype)
        planes = torch.from_numpy(parity)[None, None, :, None].expand(1, 1, -1, 8).contiguous()
        theirs = interpolate(planes, size=(size_out, 8), mode="bilinear")[0, 0, :, 0].numpy()
        weight = axis.weight.numpy()
        ours = (1 - weight) * parity[axis.low] + weight * parity[axis.high]
        assert np.all(np.abs(ours - theirs) <= np.spacing(axis.low.astype(ours.dtype) + 1)), (size_in, size_out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_axis_with_aligned_corners_has_the_weights_of_torch(dtype):
    generator = np.random.default_rng(1)
    sizes = [(1, 7), (7, 1), (5, 5), (32, 480), *generator.integers(1, [1400, 4500], (40, 2)).tolist()]
    for size_in, size_out in sizes:
        axis = axis_of(size_in, size_out, dtype, torch.device("cpu"), "corners")
        planes = (torch.arange(size_in, dtype=dtype) % 2)[None, None, :, None].expand(1, 1, -1, 8).contiguous()
        theirs = interpolate(planes, size=(size_out, 8), mode="bilinear", align_corners=True)[0, 0, :, 0]
        ours = grow(planes[0, 0], axis, range(size_out), 0)[:, 0]
        rounding = np.spacing(axis.low.astype(ours.numpy().dtype) + 1)
        assert np.all(np.abs((ours - theirs).numpy()) <= rounding), (size_in, size_out)


def test_a_nearest_axis_is_that_of_torch():
    generator = np.random.default_rng(2)
    for size_in, size_out in [(512, 480), (512, 1024), (7, 1), *generator.integers(1, [1400, 4500], (60, 2)).tolist()]:
        axis = axis_of(size_in, size_out, torch.float32, torch.device("cpu"), "nearest")
        theirs = interpolate(torch.arange(size_in, dtype=torch.float64)[None, None], size=size_out, mode="nearest")
        assert axis.low.tolist() == axis.high.tolist() == theirs[0, 0].long().tolist(), (size_in, size_out)


def test_reads_and_reached_by_are_those_of_the_weights():
    for size_in, size_out in ((7, 40), (40, 7), (5, 5), (1, 9), (9, 1)):
        axis = axis_of(size_in, size_out, torch.float32, torch.device("cpu"))
        touches = [set(pair) for pair in zip(axis.low.tolist(), axis.high.tolist(), strict=True)]
        for first in range(size_in):
            for last in range(first, size_in):
                wanted = [j for j, inputs in enumerate(touches) if any(first <= i <= last for i in inputs)]
                assert list(axis.reached_by(range(first, last + 1))) == wanted
        for first in range(size_out):
            read = axis.reads(range(first, size_out))
            assert read == range(min(min(t) for t in touches[first:]), max(max(t) for t in touches[first:]) + 1)


def test_grow_is_the_part_of_the_whole():
    planes = torch.randn(3, 20, 6, dtype=torch.float64)
    whole = interpolate(planes[:, None], size=(90, 6), mode="bilinear")[:, 0]
    axis = axis_of(20, 90, torch.float64, torch.device("cpu"))
    span = range(33, 71)
    read = axis.reads(span)
    part = grow(planes[:, read.start : read.stop], axis, span, read.start)
    assert torch.allclose(part, whole[:, 33:71], rtol=0, atol=1e-12)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [-1.5, 0.0, 2.0])
def test_shapes_are_those_of_the_dense_masks(frame, kind, level):
    logits = random_logits(1, 9, kind).double()  # in float64 no pixel is in doubt
    full = reference.full(logits, *frame)
    for shape, area, plane in zip(shapes_of(logits, frame, level), areas_of(logits, frame, level), full, strict=True):
        mask = plane > level
        assert shape.code == encode_mask(mask.numpy())
        assert area == mask.sum()
        assert shape.mean == pytest.approx(float(plane[mask].sigmoid().mean()) if mask.any() else 0.0, abs=1e-6)


def test_masks_in_the_padding_are_empty():
    logits = torch.full((1, 16, 16), -5.0)
    logits[0, :, 12:] = 5.0
    (shape,) = shapes_of(logits, Frame((64, 64), (64, 40), (100, 70)), 0.0)
    assert shape == (encode_mask(np.zeros((100, 70), bool)), 0.0)


@pytest.mark.parametrize("edges", [(12, 40), (20, 1000)])
@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_labels_do_not_depend_on_the_tiles(monkeypatch, edges, frame, kind):
    """Many small tiles and one large, cells decided at their corners and not, against the plain definition."""
    monkeypatch.setitem(label_tiles.EDGES, "cpu", edges)
    generator = torch.Generator().manual_seed(4)
    class_logits, mask_logits = 3 * torch.randn(14, 8, generator=generator), random_logits(5, 14, kind)
    sizes = frame._asdict()
    options = {"score_threshold": 0.2, "overlap_threshold": 0.1, "stuff_ids": frozenset({0, 3})}
    found = panoptic_segments(class_logits, mask_logits, **sizes, **options)
    expected = reference.panoptic(class_logits, mask_logits, **sizes, **options)
    assert expected
    reference.assert_same(found, expected)
    assert max(sum(segment.mask().astype(int) for segment in found).flatten()) <= 1
    expected = reference.semantic(class_logits, mask_logits, **sizes)
    reference.assert_same(semantic_segments(class_logits, mask_logits, **sizes), expected)


def test_both_ways_through_a_tile_are_taken(monkeypatch):
    """The test above must reach the cells and the full look alike."""
    monkeypatch.setitem(label_tiles.EDGES, "cpu", (20, 1000))
    ways = []
    owned = panoptic._Painter._owned
    monkeypatch.setattr(
        panoptic._Painter,
        "_owned",
        lambda self, planes, *rest: ways.append(planes.dim()) or owned(self, planes, *rest),
    )
    class_logits = torch.zeros(14, 3)
    class_logits[:, 0] = 9.0
    for kind in KINDS:
        panoptic_segments(class_logits, random_logits(5, 14, kind), **FRAMES[0]._asdict())
    assert set(ways) == {2, 3}, "pixels of open cells [k, N], and whole tiles [k, columns, rows]"


def test_a_class_wins_between_corners_where_it_wins_at_none():
    # left: class 0 above class 2, right: class 1 above class 2; half way class 2 is the highest
    masks = torch.full((3, 1, 2), -20.0)
    masks[0, 0, 0] = masks[1, 0, 1] = 20.0
    masks[2] = 2.2
    class_logits = torch.full((3, 4), -20.0)
    class_logits[torch.arange(3), torch.arange(3)] = 20.0
    sizes = {"canvas": (1, 2), "content": (1, 2), "output": (1, 41)}
    found = semantic_segments(class_logits, masks, **sizes)
    assert {segment.category_id for segment in found} == {0, 1, 2}
    reference.assert_same(found, reference.semantic(class_logits, masks, **sizes))


@pytest.mark.parametrize("sharpness", [0.3, 3.0, 9.0])
def test_classes_of_the_second_look_win_too(monkeypatch, sharpness):
    """Flat class scores, so that the first few classes do not rule out the rest; and sharp ones, where they do."""
    looks, able = [], winners._able_between
    monkeypatch.setattr(winners, "_able_between", lambda *args: looks.append(1) or able(*args))
    class_logits = sharpness * torch.randn(14, 61, generator=torch.Generator().manual_seed(8))
    mask_logits = random_logits(6, 14, "parts")
    sizes = FRAMES[0]._asdict()
    expected = reference.semantic(class_logits, mask_logits, **sizes)
    reference.assert_same(semantic_segments(class_logits, mask_logits, **sizes), expected)
    assert len(looks) > 1 if sharpness < 1 else looks


def test_more_queries_than_fit_a_byte():
    class_logits = torch.zeros(300, 2)
    class_logits[:, 0] = torch.linspace(5, 6, 300)
    masks = torch.full((300, 20, 15), -6.0)
    masks.view(300, 300)[torch.arange(300), torch.arange(300)] = 6.0
    sizes = {"canvas": (20, 15), "content": (20, 15), "output": (40, 60)}
    reference.assert_same(
        panoptic_segments(class_logits, masks, **sizes), reference.panoptic(class_logits, masks, **sizes)
    )


def test_a_share_equal_to_the_overlap_threshold_is_kept():
    # one row of 100 pixels: query 0 covers all of it and owns 55
    masks = torch.full((2, 1, 100), 8.0)
    masks[1, 0, 55:], masks[1, 0, :55] = 9.0, -9.0
    class_logits = torch.tensor([[6.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    sizes = {"canvas": (1, 100), "content": (1, 100), "output": (1, 100)}
    found = panoptic_segments(class_logits, masks, **sizes, overlap_threshold=0.55)
    assert sorted(segment.area for segment in found) == [45, 55]
    reference.assert_same(found, reference.panoptic(class_logits, masks, **sizes, overlap_threshold=0.55))


@pytest.mark.parametrize("task", [instance_segments, panoptic_segments, semantic_segments])
def test_logits_that_require_a_gradient_are_as_good(task):
    class_logits, mask_logits = 3 * torch.randn(14, 8), random_logits(5, 14, "blobs")
    sizes = FRAMES[1]._asdict()
    expected = task(class_logits, mask_logits, **sizes)
    assert task(class_logits.requires_grad_(), mask_logits.requires_grad_(), **sizes) == expected


def test_bounds_hold_for_every_tile(monkeypatch):
    monkeypatch.setitem(label_tiles.EDGES, "cpu", (6, 17))
    frame, logits = FRAMES[1], random_logits(2, 5, "noise")
    down, across = steps_of(logits, frame)
    low, high = bounds_of(logits, down, across)
    full = reference.full(logits, *frame)
    for y, rows in enumerate(label_tiles._cuts(down, logits.device)):
        for x, columns in enumerate(label_tiles._cuts(across, logits.device)):
            part = full[:, rows.start : rows.stop, columns.start : columns.stop].flatten(1)
            assert (part.amax(1) <= high[:, y, x] + 1e-5).all() and (part.amin(1) >= low[:, y, x] - 1e-5).all()


def test_a_grown_tile_and_its_cells_agree():
    frame, logits = FRAMES[1], random_logits(3, 4, "blobs").double()
    steps = steps_of(logits, frame)
    tile = Tile((0, 0), range(20, 90), range(100, 250))
    content = content_planes(logits, *steps, tile.rows, tile.columns)
    grown = grow_tile(content, *steps, tile)
    full = reference.full(logits, *frame)[:, 20:90, 100:250]
    assert torch.allclose(grown.transpose(1, 2), full, atol=1e-12)
    x, y = torch.ones(150, 70).nonzero().unbind(1)
    between = Cells.under(tile, *steps).between(content, x, y)
    assert torch.allclose(between.view(4, 150, 70), grown, atol=1e-12)


def test_over_corners_looks_at_four():
    planes = torch.randn(2, 5, 7)
    high = over_corners(torch.maximum, planes)
    for i in range(5):
        for j in range(7):
            assert torch.equal(high[:, i, j], planes[:, i : i + 2, j : j + 2].flatten(1).amax(1))


def test_highest_takes_the_first_of_equal_planes():
    planes = torch.tensor([[1.0, 5.0, 3.0], [2.0, 5.0, 3.0], [2.0, 1.0, 3.0]])
    best, name = highest(planes, [7, 300, 9])
    assert best.tolist() == [2.0, 5.0, 3.0] and name.tolist() == [300, 7, 7]


def test_contenders_leave_out_only_who_cannot_win():
    low, high = torch.tensor([[0.1, 0.5], [0.3, 0.2]]), torch.tensor([[0.29, 0.9], [0.4, 0.5]])
    assert contenders(low, high).tolist() == [[False, True], [True, True]]


def test_spans_of_marks():
    marks = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    assert spans_of(marks) == [range(1, 4), range(0), range(1)]
    assert spans_of(marks[:0]) == []


def test_edges_encode_as_their_mask_does():
    generator = np.random.default_rng(1)
    for case in range(400):
        height, width = generator.integers(1, 30, 2)
        mask = [
            generator.random((height, width)) < generator.random(),
            np.zeros((height, width), bool),
            np.ones((height, width), bool),
            np.repeat(generator.random((1, width)) < 0.5, height, 0),
        ][case % 4]
        edges = np.flatnonzero(np.diff(mask.T.flatten().astype(int), prepend=0, append=0)).astype(np.int64)
        if len(edges) and case % 3:  # one that ends and begins again at once
            place = generator.integers(0, len(edges))
            edges = np.insert(edges, place, [edges[place]] * 2)
        assert encode_edges(edges, (height, width)) == encode_mask(mask)


def test_codes_of_runs_are_those_of_the_label_map():
    labels = np.random.default_rng(2).integers(-1, 4, (13, 9)).repeat(3, 0)
    flat = labels.T.flatten()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1])
    codes = dict(codes_of(starts, flat[starts], labels.shape))
    assert codes == {label: encode_mask(labels == label) for label in range(4)}


@pytest.mark.parametrize("task", [instance_segments, panoptic_segments, semantic_segments])
def test_the_same_call_gives_the_same_bytes(task):
    class_logits, mask_logits = 3 * torch.randn(14, 8), random_logits(5, 14, "blobs")
    first, second = (task(class_logits.clone(), mask_logits.clone(), **FRAMES[1]._asdict()) for _ in range(2))
    assert first == second
