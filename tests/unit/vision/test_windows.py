"""Windows that overlap, averaged tile by tile as they come, against the plain dense mean."""

import itertools
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from support import reference
from support.windows import slid_as_eomt, slid_as_mmsegmentation, windowed
from torch.nn.functional import avg_pool2d

from m2f_batch.config.segment import AspectSize, ExactSize
from m2f_batch.errors import ImageError
from m2f_batch.models.label_sets import Category
from m2f_batch.models.predictions import PixelLogits, Prediction, Predictor, QueryLogits
from m2f_batch.models.preprocess_plan import PreprocessPlan
from m2f_batch.vision.cuts.view import View
from m2f_batch.vision.cuts.windows import Windows, starts_of
from m2f_batch.vision.device.engine import Engine
from m2f_batch.vision.device.micro_batches import BatchSizes
from m2f_batch.vision.device.replica import joining, replica
from m2f_batch.vision.device.threads import pin_threads
from m2f_batch.vision.label_settings import Labeling, fingerprint_of
from m2f_batch.vision.masks import label_tiles, windows
from m2f_batch.vision.masks.windows import WindowLabels, WindowLogits
from m2f_batch.vision.pixels.preprocess import pixel_values, prepare
from m2f_batch.vision.postprocess import segments_of
from m2f_batch.vision.segmenter import Segmenter

CLASSES, QUERIES = 5, 7
PLAN = PreprocessPlan(AspectSize(shortest_edge=96, longest_edge=400), 32, False, 2, 1 / 255, None, None, None)
CATEGORIES = tuple(Category(i, f"c{i}", True, None) for i in range(CLASSES))
LABELING = Labeling("semantic", PLAN, {}, "fp32", False, CATEGORIES, "none")
# height and width of images, and what is slid over them: two windows each way, many, one axis alone, evenly
CASES = {
    "two each way": ((90, 100), Windows(64, 48)),
    "last one moved far back": ((130, 171), Windows(64, 60)),
    "down alone": ((200, 90), Windows(96, 32)),
    "across alone": ((60, 150), Windows(100, 64)),
    "evenly": ((80, 190), Windows(96, None)),
    "no overlap": ((120, 120), Windows(48, 48)),
}


class Pixels(Predictor):
    """Class logits of 4 x 4 pixels from their colors and from their place on the canvas, as padding would change it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []
        self.colors = torch.randn(CLASSES, 3, generator=torch.Generator().manual_seed(0)) * 9

    def forward(self, pixel_values):
        self.seen.append(tuple(pixel_values.shape))
        pixels = avg_pool2d(pixel_values, 4)
        logits = torch.stack(
            [torch.einsum("kc,chw->khw", self.colors, each) for each in pixels]
        )  # a batch rounds as one
        return PixelLogits(
            logits + torch.linspace(0, 2, logits.shape[-1]) - torch.linspace(0, 1, logits.shape[-2])[:, None]
        )


class Queries(Predictor):
    """Mask logits of queries from colors and place, with class logits from the mean color."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.colors = torch.randn(QUERIES, 3, generator=generator) * 9
        self.classes = torch.randn(QUERIES, CLASSES + 1, 3, generator=generator) * 3

    def forward(self, pixel_values):
        logits = torch.einsum("qc,bchw->bqhw", self.colors, avg_pool2d(pixel_values, 4))
        classes = torch.einsum("qkc,bc->bqk", self.classes, pixel_values.mean((2, 3)))
        return QueryLogits(classes, logits + torch.linspace(-1, 1, logits.shape[-1]))


def photo(seed: int, size: tuple[int, int]) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC))


def segmenter_of(labeling: Labeling, model: Predictor) -> Segmenter:
    return Segmenter(model, labeling, torch.device("cpu"), threads=1)


def test_windows_lie_where_the_originals_put_them():
    for length, size in itertools.product(range(1, 200), (7, 16, 64)):
        for stride in range(math.ceil(size / 4), size + 1, 5):
            expected = slid_as_mmsegmentation(length, size, stride)
            assert [(at, min(at + size, length)) for at in starts_of(length, size, stride)] == expected
        evenly = slid_as_eomt(length, size)
        assert [(at, min(at + size, length)) for at in starts_of(length, size, None)] == evenly
        assert {place for start, end in evenly for place in range(start, end)} == set(range(length))


@pytest.mark.parametrize("model", [Pixels, Queries])
@pytest.mark.parametrize("case", CASES)
def test_the_mean_over_windows_is_that_of_the_definition(case, model, monkeypatch):
    size, cut = CASES[case]
    monkeypatch.setitem(label_tiles.EDGES, "cpu", (32, 56))  # windows begin and end within tiles
    plan = PLAN if case != "no overlap" else replace(PLAN, size=ExactSize(height=96, width=144))
    segmenter = segmenter_of(replace(LABELING, preprocess=plan, cut=cut), model())
    for seed in range(2):
        image = photo(seed, size)
        assert len(cut.views(plan, size)) > 1
        expected = windowed(lambda values: model()(values).tensors, plan, image, cut)
        (segments,) = segmenter([image])
        assert len(expected) > 1
        reference.assert_same(segments, expected)


@pytest.mark.parametrize("model", [Pixels, Queries])
def test_one_window_is_the_whole_image_to_the_bit(model):
    for size in ((96, 200), (150, 150), (33, 30)):
        images = [photo(seed, size) for seed in range(2)]
        whole = segmenter_of(LABELING, model()).rows(images)
        assert segmenter_of(replace(LABELING, cut=Windows(400, 200)), model()).rows(images) == whole
        assert segmenter_of(replace(LABELING, cut=Windows(400, None)), model()).rows(images) == whole
        assert all(len(row["segments"]) > 1 for row in whole)


def test_a_batch_holds_windows_of_several_images():
    labeling = replace(LABELING, cut=Windows(96, 64))
    images = [prepare(photo(seed, (60, 120)), PLAN, labeling.cut) for seed in range(5)]
    assert {len(image.views) for image in images} == {3}
    alone = segmenter_of(labeling, Pixels()).label(images)
    model = Pixels()
    steps = replica(model, labeling, torch.device("cpu"))
    one = partial(pin_threads, 1)
    engine = Engine(steps, BatchSizes(4), finishers=2, start_thread=one, start_finisher=one)
    for future, segments in zip(engine.submit(images), alone, strict=True):
        found = future.result(timeout=60)
        assert [(s.category_id, s.counts) for s in found] == [(s.category_id, s.counts) for s in segments]
        assert [s.score for s in found] == pytest.approx([s.score for s in segments], abs=1e-6)  # vectors round so
    assert [shape[0] for shape in model.seen] == [4, 4, 4, 3]


def predictions_of(model: Predictor, image) -> list[Prediction]:
    return [
        model(pixel_values([content], view.canvas_hw, PLAN, torch.device("cpu"))).of_image(0)
        for content, view in zip(image.contents, image.views, strict=True)
    ]


def taken(labeling, image, predictions, order):
    joined = joining(image, labeling, lambda p, frame: segments_of(p, "semantic", frame, {}))
    *early, result = [joined.take(at, predictions[at]) for at in order]
    assert early == [None] * len(early)
    return result


def test_a_result_does_not_depend_on_the_order_of_its_windows():
    labeling = replace(LABELING, cut=Windows(96, 64))
    image = prepare(photo(4, (60, 120)), PLAN, labeling.cut)
    predictions = predictions_of(Pixels(), image)
    first, *others = [taken(labeling, image, predictions, order) for order in itertools.permutations(range(3))]
    assert len(first) > 2 and all(other == first for other in others)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("model", [Pixels, Queries])
def test_a_window_whose_logits_are_not_finite_makes_the_error(model, order):
    labeling = replace(LABELING, cut=Windows(96, 64))
    image = prepare(photo(4, (60, 120)), PLAN, labeling.cut)
    predictions = predictions_of(model(), image)
    predictions[1].tensors[-1][0, 0, 0] = torch.nan
    joined = joining(image, labeling, lambda p, frame: segments_of(p, "semantic", frame, {}))
    (error,) = [result for at in order if (result := joined.take(at, predictions[at])) is not None]
    assert isinstance(error, ImageError) and error.reason == "NanLogits" and error.size_hw == (60, 120)


def test_windows_are_let_go_of_as_the_picture_is_painted():
    cut = Windows(64, 32)
    size = (96, 3000)
    plan = replace(PLAN, size=None)
    views: tuple[View, ...] = cut.views(plan, size)
    labels = WindowLabels(views, size, size)
    held = []
    for view in views:
        labels.add(view, WindowLogits(torch.randn(3, 16, 16)))
        held.append(len(labels._held))
    labels.joined()
    assert len(views) == 2 * 93 and max(held) <= 4 * 2 and held[-1] == 0


class OfDevice(WindowLogits):
    """Logits that stand for those on a device which has no room."""

    def cpu(self):
        return WindowLogits(self.logits.clone())


def test_all_windows_follow_to_the_cpu_when_the_device_has_no_room(monkeypatch):
    monkeypatch.setattr(windows, "CPU", torch.device("cpu", 0))  # another one than that of the logits
    cut, size = Windows(64, 32), (96, 300)
    views: tuple[View, ...] = cut.views(replace(PLAN, size=None), size)
    logits = [torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(at)) for at in range(len(views))]

    def labels_of(kind, strips):
        labels = WindowLabels(views, size, size)
        for at, view in enumerate(views):
            labels.add(view, kind(logits[at]))
            if at == 0:
                labels._runs.paint_next = partial(without_room, labels._runs.paint_next, strips)
            elsewhere.append([type(part) for _, part in labels._held])
        return labels.joined()

    def without_room(paint_next, strips, *arguments):
        strips.append(len(strips))
        if len(strips) == 2:
            raise torch.OutOfMemoryError
        paint_next(*arguments)

    elsewhere: list[list[type]] = []
    expected = labels_of(WindowLogits, [0, 0])
    elsewhere.clear()
    found = labels_of(OfDevice, [])
    assert OfDevice in elsewhere[0]
    fallen = next(at for at, kinds in enumerate(elsewhere) if WindowLogits in kinds)
    assert fallen < len(views) - 2 and all(OfDevice not in kinds for kinds in elsewhere[fallen:])
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_windows_are_in_the_fingerprint():
    facts = [
        replace(LABELING, cut=cut).facts("m", 1, 2) for cut in (Windows(64, 32), Windows(64, None), Windows(60, 32))
    ]
    whole = LABELING.facts("m", 1, 2)
    assert len({fingerprint_of(each) for each in (*facts, whole)}) == 4
    assert all(each.keys() == whole.keys() | {"windows"} for each in facts)
