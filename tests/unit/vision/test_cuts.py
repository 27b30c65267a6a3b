"""Two overlapping windows of an image, joined before post-processing and after it, against the plain definition."""

import itertools
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from support import reference
from torch.nn.functional import avg_pool2d

from m2f_batch.config.segment import ExactSize
from m2f_batch.errors import ImageError
from m2f_batch.flow.unit import stages
from m2f_batch.flow.unit.units import prepared_array, prepared_of, rows_of
from m2f_batch.models.label_sets import Category
from m2f_batch.models.predictions import PixelLogits, Predictor, QueryLogits
from m2f_batch.models.preprocess_plan import PreprocessPlan
from m2f_batch.records import ImageRef, Segment, segment_of
from m2f_batch.runs.plan import Unit
from m2f_batch.storage.places import open_store
from m2f_batch.vision.cuts.view import View, Window
from m2f_batch.vision.cuts.whole import WHOLE
from m2f_batch.vision.device.engine import Engine
from m2f_batch.vision.device.micro_batches import BatchSizes
from m2f_batch.vision.device.replica import joining, replica
from m2f_batch.vision.device.views import ImageJob
from m2f_batch.vision.label_settings import Labeling, fingerprint_of
from m2f_batch.vision.masks.frame import Frame
from m2f_batch.vision.masks.rle import encode_mask
from m2f_batch.vision.pixels.preprocess import prepare
from m2f_batch.vision.postprocess import segments_of
from m2f_batch.vision.segmenter import Segmenter

CLASSES, SCALED, SIZE = 5, (64, 96), (40, 60)
PLAN = PreprocessPlan(ExactSize(height=64, width=96), 32, False, 2, 1 / 255, None, None, None)
CATEGORIES = tuple(Category(i, f"c{i}", True, None) for i in range(CLASSES))
LABELING = Labeling("semantic", PLAN, {}, "fp32", False, CATEGORIES, "none")


class Pixels(Predictor):
    """Class logits of 4 x 4 pixels from their colors and from their place on the canvas, as padding would change it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []
        self.colors = torch.randn(CLASSES, 3, generator=torch.Generator().manual_seed(0)) * 9

    def forward(self, pixel_values):
        self.seen.append(tuple(pixel_values.shape))
        logits = torch.einsum("kc,bchw->bkhw", self.colors, avg_pool2d(pixel_values, 4))
        return PixelLogits(logits + torch.linspace(0, 2, logits.shape[-1]))


def starts_of(length: int, size: int, stride: int) -> list[int]:
    return sorted({min(at, max(length - size, 0)) for at in range(0, max(length - size, 0) + stride, stride)})


@dataclass(frozen=True)
class Sliding:
    """Square windows of the resized image, their logits averaged."""

    size: int
    stride: int
    joins: ClassVar = "predictions"

    def scaled_hw(self, plan, output_hw):
        return plan.content_size(output_hw)

    def views(self, plan, output_hw):
        height, width = self.scaled_hw(plan, output_hw)
        h, w = min(self.size, height), min(self.size, width)
        places = itertools.product(starts_of(height, h, self.stride), starts_of(width, w, self.stride))
        return tuple(View(Window(y, x, h, w), (h, w), (h, w)) for y, x in places)

    def facts(self):
        return {"window": [self.size, self.stride]}

    def join(self, plan, output_hw):
        return Averaged(self.scaled_hw(plan, output_hw), len(self.views(plan, output_hw)))


class Averaged:
    def __init__(self, size_hw, count):
        self.size_hw, self.count, self.sums, self.counts, self.only = size_hw, count, 0, torch.zeros(size_hw), None

    def add(self, view, part):
        (y, x, h, w), (canvas, size) = view.window, (view.canvas_hw, view.content_hw)
        if self.count == 1:
            self.only = part, view
            return
        if isinstance(self.sums, int):
            self.sums = torch.zeros(len(part.logits), *self.size_hw)
        self.sums[:, y : y + h, x : x + w] += reference.up(part.logits, canvas)[:, : size[0], : size[1]]
        self.counts[y : y + h, x : x + w] += 1

    def joined(self):
        return self.only or (
            PixelLogits(self.sums / self.counts),
            View(Window(0, 0, *self.size_hw), self.size_hw, self.size_hw),
        )


@dataclass(frozen=True)
class Tiles:
    """Windows of the image as it is on padded canvases. The first one that has a pixel labels it."""

    width: int
    stride: int
    joins: ClassVar = "segments"

    def scaled_hw(self, plan, output_hw):
        return output_hw

    def views(self, plan, output_hw):
        height, width = output_hw
        size = (height, min(self.width, width))
        starts = starts_of(width, size[1], self.stride)
        return tuple(View(Window(0, x, *size), size, (64, 64)) for x in starts)

    def facts(self):
        return {"tiles": [self.width, self.stride]}

    def join(self, plan, output_hw):
        return Stitched(output_hw)


class Stitched:
    def __init__(self, size_hw):
        self.size_hw, self.free, self.found = size_hw, np.ones(size_hw, bool), {}

    def add(self, view, part):
        y, x, h, w = view.window
        seen = np.zeros(self.size_hw, bool)
        seen[y : y + h, x : x + w] = True
        for segment in part:
            mask = np.zeros(self.size_hw, bool)
            mask[y : y + h, x : x + w] = segment.mask()
            before, score = self.found.get(segment.category_id, (np.zeros(self.size_hw, bool), 0.0))
            self.found[segment.category_id] = before | (mask & self.free), max(score, segment.score)
        self.free &= ~seen

    def joined(self):
        entries = [(encode_mask(mask), c, score) for c, (mask, score) in self.found.items() if mask.any()]
        entries.sort(key=lambda entry: (-entry[0].area, entry[1]))
        return [
            Segment(i, c, "", score, code.area, code.bbox, code.counts, self.size_hw)
            for i, (code, c, score) in enumerate(entries, start=1)
        ]


def photo(seed: int, size=SIZE) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC))


def segmenter_of(labeling: Labeling) -> Segmenter:
    return Segmenter(Pixels(), labeling, torch.device("cpu"), threads=1)


def logits_of(pixels: np.ndarray, canvas: tuple[int, int]) -> torch.Tensor:
    """What the model gives for one content at the top left of a canvas."""
    values = torch.zeros(1, 3, *canvas)
    values[0, :, : pixels.shape[0], : pixels.shape[1]] = torch.tensor(pixels).permute(2, 0, 1) / 255
    return Pixels()(values).logits[0]


def rows_by_stages(labeling: Labeling, photos: list[np.ndarray], folder) -> list[dict]:
    """Rows of photographs, from files, by the stages that a run goes through."""
    for number, pixels in enumerate(photos):
        if not (folder / f"{number}.png").exists():
            Image.fromarray(pixels).save(folder / f"{number}.png")
    refs = [ImageRef(str(path), open_store(str(path)).stat(str(path)).version) for path in sorted(folder.iterdir())]
    unit = stages.unit_table(Unit("unit", tuple(refs)))
    options = {"plan": labeling.preprocess, "cut": labeling.cut, "max_pixels": 10**6, "threads": 1}
    return rows_of(stages.label_unit(stages.prepare_unit(unit, **options), segmenter_of(labeling))).to_pylist()


def segments_in(row: dict) -> list[Segment]:
    assert row["status"] == "ok", row
    return [segment_of(entry, (row["height"], row["width"])) for entry in row["segments"]]


def averaged(content: np.ndarray, starts: list[int]) -> torch.Tensor:
    """The mean over windows of 64 x 64, dense."""
    total, count = torch.zeros(CLASSES, *SCALED), torch.zeros(SCALED)
    for x in starts:
        total[:, :, x : x + 64] += reference.up(logits_of(content[:, x : x + 64], (64, 64)), (64, 64))
        count[:, x : x + 64] += 1
    return total / count


def test_predictions_of_overlapping_windows_are_joined_before_they_become_segments(tmp_path):
    photos = [photo(seed) for seed in range(3)]
    rows = rows_by_stages(replace(LABELING, cut=Sliding(64, 32)), photos, tmp_path)
    for row, pixels in zip(rows, photos, strict=True):
        content = prepare(pixels, PLAN).contents[0]
        expected = reference.pixel_classes(averaged(content, [0, 32]), canvas=SCALED, content=SCALED, output=SIZE)
        reference.assert_same(segments_in(row), expected)
        assert len(expected) > 2


def test_segments_of_overlapping_windows_are_joined_after_they_were_made(tmp_path):
    photos = [photo(seed) for seed in range(3)]
    rows = rows_by_stages(replace(LABELING, cut=Tiles(40, 20)), photos, tmp_path)
    for row, pixels in zip(rows, photos, strict=True):
        label, doubt = np.full(SIZE, -1), np.zeros(SIZE, bool)
        scores = np.zeros(CLASSES)
        for x in (0, 20):
            logits = logits_of(pixels[:, x : x + 40], (64, 64))
            for region in reference.pixel_classes(logits, canvas=(64, 64), content=(40, 40), output=(40, 40)):
                scores[region.category_id] = max(scores[region.category_id], region.score)
                own = np.zeros(SIZE, bool)
                own[:, x : x + 40] = region.mask
                label[own & (label < 0 if x == 0 else np.arange(60) >= 40)] = region.category_id
                doubt[:, x : x + 40] |= region.doubtful
        expected = [
            reference.Region(float(scores[c]), c, label == c, doubt)
            for c in sorted(range(CLASSES), key=lambda c: (-(label == c).sum(), c))
            if (label == c).any()
        ]
        assert (label >= 0).all() and len(expected) > 2
        reference.assert_same(segments_in(row), expected)


def test_one_window_is_the_whole_image_to_the_bit(tmp_path):
    photos = [photo(seed) for seed in range(3)]
    whole = rows_by_stages(LABELING, photos, tmp_path)
    assert rows_by_stages(replace(LABELING, cut=Sliding(128, 64)), photos, tmp_path) == whole
    assert sum(len(row["segments"]) for row in whole) > 6


@dataclass(frozen=True)
class OneTile(Tiles):
    """The whole image as its one tile."""

    def views(self, plan, output_hw):
        return WHOLE.views(plan, output_hw)


SETTINGS = {
    "instance": {"score_threshold": 0.1, "mask_threshold": 0.5, "top_k": 20, "stuff_ids": frozenset({1})},
    "panoptic": {"score_threshold": 0.1, "mask_threshold": 0.5, "overlap_threshold": 0.3, "stuff_ids": frozenset({1})},
    "semantic": {},
}


@pytest.mark.parametrize("task", SETTINGS)
def test_one_view_is_post_processed_as_the_task_is(task):
    labeling = replace(LABELING, task=task, postprocess=SETTINGS[task])
    generator = torch.Generator().manual_seed(2)
    masks = reference.up(6 * torch.randn(12, 4, 6, generator=generator), (16, 24))
    prediction = QueryLogits(4 * torch.randn(12, CLASSES + 1, generator=generator), masks)
    image = prepare(photo(0), PLAN)
    expected = segments_of(prediction, task, Frame(SCALED, SCALED, SIZE), SETTINGS[task])
    assert len(expected) > 1
    assert taken(labeling, image, [prediction]) == [replace(s, category=f"c{s.category_id}") for s in expected]


def taken(labeling, image, predictions, order=None):
    """The result of an image whose predictions come in some order."""
    joined = joining(image, labeling, lambda p, frame: segments_of(p, labeling.task, frame, labeling.postprocess))
    *early, result = [joined.take(at, predictions[at]) for at in order or range(len(predictions))]
    assert early == [None] * len(early)
    return result


@pytest.mark.parametrize("cut", [Sliding(64, 16), Tiles(40, 10)], ids=lambda cut: cut.joins)
def test_a_result_does_not_depend_on_the_order_of_its_views(cut):
    labeling = replace(LABELING, cut=cut)
    image = prepare(photo(4), PLAN, cut)
    predictions = [
        PixelLogits(logits_of(content, view.canvas_hw))
        for content, view in zip(image.contents, image.views, strict=True)
    ]
    first, *others = [taken(labeling, image, predictions, order) for order in itertools.permutations(range(3))]
    assert len(first) > 2 and all(other == first for other in others)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_first_view_without_segments_makes_the_error(order):
    image = prepare(photo(4, (64, 64)), PLAN, Tiles(44, 10))
    assert len(image.views) == 3
    predictions = [PixelLogits(logits_of(content, (64, 64))) for content in image.contents]
    for at in (1, 2):
        predictions[at].logits[0, 0, 0] = torch.nan
    labeling = replace(LABELING, cut=Tiles(44, 10))
    joined = joining(image, labeling, lambda p, frame: segments_of(p, "semantic", frame, {}))
    results = [joined.take(at, predictions[at]) for at in order]
    (error,) = [result for result in results if result is not None]
    assert isinstance(error, ImageError) and error.reason == "NanLogits" and error.size_hw == (64, 64)
    assert results.index(error) == max(order.index(0), order.index(1)), "said once views 0 and 1 are there"


def test_a_waiting_view_keeps_no_micro_batch_in_memory():
    kept = []

    @dataclass(frozen=True)
    class Keeping(Sliding):
        def join(self, plan, output_hw):
            join = Averaged(SCALED, 2)
            join.add = lambda view, part: kept.append(part.logits.untyped_storage().nbytes())
            whole = View(Window(0, 0, *SCALED), SCALED, SCALED)
            join.joined = lambda: (PixelLogits(torch.zeros(CLASSES, 16, 24)), whole)
            return join

    cut = Keeping(64, 32)
    image = prepare(photo(0), PLAN, cut)
    batch = PixelLogits(torch.zeros(8, CLASSES, 16, 16))
    taken(replace(LABELING, cut=cut), image, [batch.of_image(0), batch.of_image(1)])
    assert kept == [CLASSES * 16 * 16 * 4] * 2


def test_micro_batches_hold_views_of_several_images_and_each_image_ends_with_its_last():
    labeling = replace(LABELING, cut=Sliding(64, 32))
    images = [prepare(photo(seed), PLAN, labeling.cut) for seed in range(10)]
    alone = segmenter_of(labeling).label(images)
    model = Pixels()
    engine = Engine(
        replica(model, labeling, torch.device("cpu")),
        BatchSizes(3),
        finishers=2,
        start_thread=lambda: None,
        start_finisher=lambda: None,
    )
    assert [future.result(timeout=60) for future in engine.submit(images)] == alone
    assert [shape[0] for shape in model.seen] == [3] * 6 + [2], "20 views of 10 images"


class Failing(Pixels):
    def forward(self, pixel_values):
        prediction = super().forward(pixel_values)
        if len(self.seen) == 3:
            raise ZeroDivisionError("a bug")
        return prediction


def test_an_image_with_a_view_that_failed_is_not_computed_further():
    labeling = replace(LABELING, cut=Sliding(32, 4))
    image = prepare(photo(0), PLAN, labeling.cut)
    assert len(image.views) == 153
    model = Failing()
    segmenter = Segmenter(model, labeling, torch.device("cpu"), threads=1)
    with pytest.raises(ZeroDivisionError):
        segmenter.label([image])
    segmenter._engine._loader.submit(int).result(timeout=60)
    assert len(model.seen) < 12
    assert len(segmenter.label([image])[0]) > 1, "another try works"


def test_an_image_that_nobody_wants_is_asked_once():
    job = ImageJob(prepare(photo(0), PLAN, Sliding(64, 32)), None)
    job.future.cancel()
    assert [job.is_wanted(), job.is_wanted()] == [False, False]
    job.fail(KeyError("late"))
    job.succeed([])
    assert job.future.cancelled()


def test_views_travel_between_stages_as_they_are():
    cuts = (Sliding(48, 16), WHOLE, Tiles(20, 10))
    error = ImageError("decode", "Truncated", "short", size_hw=(3, 2))
    unrounded = prepare(photo(9)[:7, :5], replace(PLAN, resizing="torch"))
    results = [error, *(prepare(photo(seed), PLAN, cut) for seed, cut in enumerate(cuts)), unrounded, error]
    refs = [ImageRef(f"/p/{number}.png", str(number)) for number in range(6)]
    packed = prepared_array(refs, results)
    for first, last in ((0, 6), (1, 3), (2, 5), (4, 6), (3, 3)):
        again, items = prepared_of(packed.slice(first, last - first))
        assert again == refs[first:last]
        for item, expected in zip(items, results[first:last], strict=True):
            assert type(item) is type(expected)
            if isinstance(expected, ImageError):
                assert (str(item), item.size_hw) == (str(expected), expected.size_hw)
                continue
            assert (item.views, item.output_hw) == (expected.views, expected.output_hw)
            assert len(item.contents) == len(expected.contents)
            for a, b in zip(item.contents, expected.contents, strict=True):
                assert a.dtype == b.dtype
                assert np.array_equal(a, b)


def test_a_cut_other_than_the_whole_image_is_in_the_fingerprint():
    facts = [replace(LABELING, cut=cut).facts("m", 1, 2) for cut in (WHOLE, Sliding(64, 32), Sliding(64, 16))]
    assert facts[0].keys() == facts[1].keys() - {"window"}
    assert len({fingerprint_of(each) for each in facts}) == 3
