"""The engine around a real model: the same bytes as one image after another, whoever else is being served."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import DEMO_MODEL
from support.engines import config_of, rows_of
from support.views import frame_of, values_of, view_of

from benchmarks.lib import stubs
from m2f_batch.demo.scenes import VAL_SEED, draw_scene
from m2f_batch.errors import ArgumentError, ImageError
from m2f_batch.flow import pipeline
from m2f_batch.flow.job import segment
from m2f_batch.flow.workers import GatedActor
from m2f_batch.models.loading import forward
from m2f_batch.records import ImageRef, ok_row
from m2f_batch.vision.pixels.preprocess import Prepared, prepare
from m2f_batch.vision.postprocess import segments_of
from m2f_batch.vision.segmenter import Segmenter, pinned_threads

SIZE = {"shortest_edge": 96, "longest_edge": 160}  # several canvases for the images below


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_pretrained(str(DEMO_MODEL), task="panoptic", size=SIZE)


def prepared(segmenter: Segmenter, count: int) -> list[Prepared]:
    crops = [np.s_[:, :], np.s_[:150], np.s_[:, :120], np.s_[:190, :190]]
    images = [np.ascontiguousarray(draw_scene(VAL_SEED + i).image[crops[i % len(crops)]]) for i in range(count)]
    return [prepare(image, segmenter.labeling.preprocess) for image in images]


def one_by_one(segmenter: Segmenter, images: list[Prepared]) -> Iterator[object]:
    """The plain loop."""
    labeling = segmenter.labeling
    for image in images:
        with pinned_threads(segmenter.threads):
            values = values_of([image], labeling.preprocess)
            prediction = forward(segmenter.model, values, labeling.precision)
            found = segments_of(prediction.of_image(0), labeling.task, frame_of(image), labeling.postprocess)
            yield [replace(segment, category=labeling.categories[segment.category_id].name) for segment in found]


def test_rows_are_those_of_the_plain_loop_whatever_the_neighbours(segmenter):
    images = prepared(segmenter, 24)
    assert len({view_of(image).canvas_hw for image in images}) >= 4
    expected = list(one_by_one(segmenter, images))
    assert sum(map(len, expected)) > 40
    assert segmenter.label(images) == expected
    assert segmenter.label(images[::-1]) == expected[::-1]
    with ThreadPoolExecutor(2) as callers:  # two units in flight
        both = list(callers.map(segmenter.label, [images[0::2], images[1::2]]))
    assert both == [expected[0::2], expected[1::2]]


def test_callers_keep_their_number_of_threads(segmenter):
    images = prepared(segmenter, 4)
    expected, barrier = segmenter.label(images), threading.Barrier(2, timeout=60)

    def with_own(threads: int) -> tuple[object, int]:
        torch.get_num_threads()  # a thread takes the process' number when torch first asks for it
        barrier.wait()
        torch.set_num_threads(threads)
        barrier.wait()
        return segmenter.label(images), torch.get_num_threads()

    with pinned_threads(3):
        with ThreadPoolExecutor(2) as callers:
            assert list(callers.map(with_own, [1, 5])) == [(expected, 1), (expected, 5)]
        assert segmenter.label(images) == expected
        assert torch.get_num_threads() == 3


def test_images_that_cannot_be_decoded_take_no_others_place(segmenter):
    good = [draw_scene(VAL_SEED + number).image for number in range(3)]
    rows = segmenter.rows([good[0], b"no image", good[1], b"", good[2]])
    assert [row["status"] for row in rows] == ["ok", "error", "ok", "error", "ok"]
    assert [rows[place]["segments"] for place in (0, 2, 4)] == [row["segments"] for row in segmenter.rows(good)]
    with pytest.raises(ImageError, match="image 1"):
        segmenter([good[0], b"no image"])


def test_a_callers_bug_leaves_nothing_behind(segmenter):
    good = draw_scene(VAL_SEED).image
    with pytest.raises(ArgumentError, match=r"images\[2\]: is an array of float32.*uint8"):
        segmenter([good, good, good.astype(np.float32)])
    segmenter.take_seconds()
    assert segmenter.take_seconds()["forward"] == 0, "nothing goes on computing"
    assert len(segmenter([good])) == 1


def test_seconds_by_stage(segmenter):
    segmenter.take_seconds()
    segmenter.label(prepared(segmenter, 4))
    seconds = segmenter.take_seconds()
    assert set(seconds) == {"copy", "forward", "postprocess", "wait"}
    assert min(seconds["copy"], seconds["forward"], seconds["postprocess"]) > 0


def test_an_actor_works_on_two_units_at_once(ray_session, tmp_path, monkeypatch):
    """Around a stub: what a real model gives two units at once is held above, and on Ray in ``test_runs``."""

    class Meeting(GatedActor):
        """Goes on only when a second unit is in the same actor."""

        def __init__(self, *settings: object) -> None:
            super().__init__(*settings)
            self.barrier = threading.Barrier(2, timeout=120)

        def __call__(self, table):
            self.barrier.wait()
            return super().__call__(table)

    names = [*stubs.uris(13)]  # two units
    pq.write_table(pa.table({"uri": names}), tmp_path / "in.parquet")
    sections = {"compute": {"actors": 1}, "output": {"images_per_file": 7}}
    monkeypatch.setattr(pipeline, "GatedActor", Meeting)
    config = config_of(tmp_path / "in.parquet", tmp_path / "run", DEMO_MODEL, **sections)
    assert segment(config, steps=stubs.steps()).exit_code == 0
    assert rows_of(tmp_path / "run") == [ok_row(ImageRef(name, ""), stubs.SIZE_HW, [stubs.SEGMENT]) for name in names]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("batch_size", [None, 3])
def test_cuda_agrees_with_the_cpu(segmenter, batch_size):
    images = prepared(segmenter, 48)
    there = Segmenter.from_pretrained(str(DEMO_MODEL), task="panoptic", size=SIZE, device="cuda", batch_size=batch_size)
    pairs = list(zip(there.label(images), segmenter.label(images), strict=True))
    ious = []
    for ours, theirs in pairs:
        masks = {segment.category_id: segment.mask() for segment in theirs}
        ious += [
            (segment.mask() & masks[segment.category_id]).sum() / (segment.mask() | masks[segment.category_id]).sum()
            for segment in ours
            if segment.category_id in masks and [s.category_id for s in ours].count(segment.category_id) == 1
        ]
    assert len(ious) > 100
    assert np.median(ious) >= 0.99
    assert there.batch_size is not None
