"""The engine around steps that only note what they are asked to do."""

import gc
import threading
import time
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor, wait

import numpy as np
import pytest
import torch
from support.views import one_view, view_of

from m2f_batch.errors import ImageError
from m2f_batch.vision.device.engine import UNFINISHED, Engine, _failing
from m2f_batch.vision.device.micro_batches import BatchSizes
from m2f_batch.vision.device.views import ImageJob, ViewJob
from m2f_batch.vision.pixels.prepared import Prepared

CANVASES = [(32, 32), (32, 64), (64, 32)]


def images_of(count: int, canvases=CANVASES) -> list[Prepared]:
    """Images that are told apart by their first byte."""
    content = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    return [one_view(content[number], canvases[number * 7 % len(canvases)], (1, 1)) for number in range(count)]


def name_of(content: np.ndarray) -> int:
    return int(content[0, 0, 0])


class On(list):
    """Contents on one canvas."""

    def __init__(self, canvas_hw, contents):
        super().__init__(contents)
        self.canvas_hw = canvas_hw


class Noted:
    """Steps that note micro-batches, and fail where they are told to. A result is the image's name."""

    def __init__(self, *, room: int = 1000, failing: dict[str, type[Exception]] | None = None) -> None:
        self.room, self.failing = room, failing or {}
        self.batches: list[list[np.ndarray]] = []  # of all attempts
        self.finished: list[int] = []
        self.freed = 0
        self.most_alive = 0  # micro-batches between forward and the end of finish
        self.lock = threading.Lock()

    def begin(self, image):
        return image

    def load(self, contents, canvas_hw):
        if "load" in self.failing:
            raise self.failing["load"]("in load")
        return On(canvas_hw, contents)

    def forward(self, loaded):
        with self.lock:
            self.batches.append(loaded)
            alive = sum(any(name_of(image) not in self.finished for image in batch) for batch in self.batches[:-1])
            self.most_alive = max(self.most_alive, alive)
        if "forward" in self.failing:
            raise self.failing["forward"]("in forward")
        if len(loaded) > self.room:
            raise torch.OutOfMemoryError("too many")
        return loaded

    def wait(self, computed):
        with self.lock:
            return 0.0 if name_of(computed[0]) in self.finished else 0.5 / len(computed)

    def finish(self, image, at, computed, index):
        (content,) = image.contents
        assert at == 0 and computed[index] is content
        if "finish" in self.failing and name_of(content) == 3:
            raise self.failing["finish"]("in finish")
        with self.lock:
            self.finished.append(name_of(content))
        return name_of(content)

    def free_memory(self):
        self.freed += 1

    def seconds_of(self, contents, canvas_hw):
        return None if len(contents) > self.room else max(len(contents), 4) * 0.001


def engine_of(steps, size: int | None = 4, finishers: int = 2, fill: bool = False) -> Engine:
    return Engine(
        steps, BatchSizes(size), finishers=finishers, start_thread=lambda: None, start_finisher=lambda: None, fill=fill
    )


def results_of(engine: Engine, images: list[Prepared]) -> list:
    return [future.result(timeout=60) for future in engine.submit(images)]


@pytest.mark.parametrize("finishers", [1, 3])
@pytest.mark.parametrize("size", [1, 4, 16])
def test_several_callers_get_their_own_results_in_their_order(size, finishers):
    steps, images = Noted(), images_of(200)
    engine = engine_of(steps, size, finishers)
    with ThreadPoolExecutor(4) as callers:
        parts = [images[start : start + 25] for start in range(0, 200, 25)]
        results = list(callers.map(lambda part: results_of(engine, part), parts))
    assert results == [[name_of(*image.contents) for image in part] for part in parts]
    canvas_of = {name_of(*image.contents): view_of(image).canvas_hw for image in images}
    assert all({canvas_of[name_of(content)] for content in batch} == {batch.canvas_hw} for batch in steps.batches)
    assert all(len(batch) <= size for batch in steps.batches)
    assert sorted(steps.finished) == list(range(200)), "each image once"
    if size > 1:
        assert len(steps.batches) < 200, "images share micro-batches"


@pytest.mark.parametrize("which", ["start_thread", "start_finisher"])
def test_a_thread_that_cannot_start_is_an_error_at_once(which):
    def fail() -> None:
        raise RuntimeError("can't start new thread")

    starts = {"start_thread": lambda: None, "start_finisher": lambda: None, which: fail}
    with pytest.raises(BrokenExecutor):
        Engine(Noted(), BatchSizes(2), finishers=1, **starts)


def test_a_failure_reaches_the_jobs_that_are_left_and_no_others():
    done, left = (ImageJob(image, None) for image in images_of(2))
    done.succeed([])
    with pytest.raises(KeyError, match="submit"), _failing([ViewJob(done, 0), ViewJob(left, 0)]):
        raise KeyError("submit")
    assert done.future.result() == []
    assert isinstance(left.future.exception(timeout=60), KeyError)


def test_micro_batches_reach_over_callers():
    steps, images = Noted(), images_of(8, [(32, 32)])
    engine, gate = engine_of(steps, 4), threading.Event()
    engine._loader.submit(gate.wait)
    futures = [*engine.submit(images[:3]), *engine.submit(images[3:])]
    gate.set()
    assert [future.result(timeout=60) for future in futures] == list(range(8))
    assert [len(batch) for batch in steps.batches] == [4, 4]


def test_few_micro_batches_are_alive_at_once():
    steps = Noted()
    results_of(engine_of(steps, 2), images_of(100))
    assert 1 <= steps.most_alive <= UNFINISHED


def test_out_of_memory_halves_the_micro_batch_and_goes_on():
    steps, images = Noted(room=3), images_of(40, [(32, 32)])
    assert results_of(engine_of(steps, 16), images) == list(range(40))
    sizes = [len(batch) for batch in steps.batches]
    assert sizes[:4] == [16, 8, 4, 2]
    assert set(sizes[3:]) == {2}, "the canvas keeps its smaller size"
    assert list(map(name_of, steps.batches[0][:2])) == list(map(name_of, steps.batches[3])), "the same views again"
    assert steps.freed == 3
    assert steps.finished and sorted(steps.finished) == list(range(40))


def test_another_canvas_keeps_its_size():
    steps = Noted()
    forward = steps.forward

    def tight(loaded):
        steps.room = 1 if loaded.canvas_hw == (64, 32) else 4
        return forward(loaded)

    steps.forward = tight
    images = images_of(64, [(32, 32), (64, 32)])
    assert results_of(engine_of(steps, 4), images) == list(range(64))
    assert {len(batch) for batch in steps.batches if batch.canvas_hw == (32, 32)} == {4}


def test_a_compiled_model_sees_one_shape_per_canvas():
    steps, images = Noted(), images_of(10)
    assert results_of(engine_of(steps, 4, fill=True), images) == list(range(10))
    assert {len(batch) for batch in steps.batches} == {4}
    assert sorted(steps.finished) == list(range(10)), "copies have no results"
    steps = Noted(room=3)
    assert results_of(engine_of(steps, 8, fill=True), images) == list(range(10))
    assert {len(batch) for batch in steps.batches} == {8, 4, 2}


def test_out_of_memory_while_loading_is_the_same():
    steps = Noted()
    load = steps.load

    def tight(contents, canvas_hw):
        if len(contents) > 2:
            raise torch.OutOfMemoryError("too many")
        return load(contents, canvas_hw)

    steps.load = tight
    assert results_of(engine_of(steps, 8), images_of(20)) == list(range(20))
    assert {len(batch) for batch in steps.batches} <= {1, 2}


def test_one_image_that_does_not_fit_is_tried_again_alone_on_the_device():
    steps = Noted(room=0)

    def free_memory():
        steps.room = 1

    steps.free_memory = free_memory
    assert results_of(engine_of(steps, 1), images_of(5)) == list(range(5))


def test_one_image_that_never_fits_is_an_error_for_its_caller():
    steps = Noted(room=0)
    with pytest.raises(torch.OutOfMemoryError):
        results_of(engine_of(steps, 4), images_of(4, [(32, 32)]))
    assert [len(batch) for batch in steps.batches[:4]] == [4, 2, 1, 1]


@pytest.mark.parametrize("where", ["load", "forward", "finish"])
def test_a_bug_reaches_the_caller_and_the_engine_goes_on(where):
    steps = Noted(failing={where: ZeroDivisionError})
    engine = engine_of(steps)
    futures = engine.submit(images_of(12))
    failed = [isinstance(future.exception(timeout=60), ZeroDivisionError) for future in futures]
    assert failed == [where != "finish" or number == 3 for number in range(12)]
    steps.failing = {}
    assert results_of(engine, images_of(12)) == list(range(12))


def test_a_bad_image_is_a_result():
    steps, error = Noted(), ImageError("postprocess", "NanLogits", "none")
    steps.finish = lambda image, at, computed, index: error
    assert results_of(engine_of(steps), images_of(3)) == [error] * 3


def test_cancelled_images_are_not_computed():
    steps, gate = Noted(), threading.Event()
    engine = engine_of(steps, 1)
    engine._loader.submit(gate.wait)
    futures = engine.submit(images_of(10))
    assert all(future.cancel() for future in futures[2:])
    gate.set()
    assert [future.result(timeout=60) for future in futures[:2]] == [0, 1]
    engine._loader.submit(lambda: None).result(timeout=60)
    assert len(steps.batches) == 2


@pytest.mark.parametrize(("room", "found"), [(1000, 4), (2, 2)])
def test_the_batch_size_is_found_on_the_commonest_canvas(room, found):
    steps = Noted(room=room)
    engine, gate = engine_of(steps, None), threading.Event()
    engine._loader.submit(gate.wait)
    futures = engine.submit(images_of(60, [(64, 64), (32, 32), (32, 32)]))
    gate.set()
    assert [future.result(timeout=60) for future in futures] == list(range(60))
    assert engine._sizes.size == found
    most = {canvas: max(len(b) for b in steps.batches if b.canvas_hw == canvas) for canvas in ((32, 32), (64, 64))}
    assert most == {(32, 32): found, (64, 64): 1}


def test_a_probe_that_fails_is_not_the_end():
    steps = Noted()

    def broken(contents, canvas_hw):
        raise ZeroDivisionError

    steps.seconds_of = broken
    engine = engine_of(steps, None)
    assert results_of(engine, images_of(5)) == list(range(5))
    assert engine._sizes.size == 1


def test_seconds_are_handed_out_once():
    steps = Noted()
    engine = engine_of(steps, 4, finishers=1)
    results_of(engine, images_of(8, [(32, 32)]))
    taken = engine.clock.take()
    assert set(taken) == {"copy", "forward", "postprocess", "wait"}
    assert taken["forward"] > 0
    assert min(taken.values()) >= 0
    again = engine.clock.take()
    assert (again["copy"], again["forward"], again["postprocess"]) == (0, 0, 0)
    assert again["wait"] > 0, "there was nothing to do"


@pytest.mark.parametrize("failing", [{}, {"forward": ZeroDivisionError}])
def test_threads_end_with_the_engine(failing):
    before = set(threading.enumerate())
    engine = engine_of(Noted(failing=failing))
    wait(engine.submit(images_of(20)))
    engine._device.submit(lambda: None).result(timeout=60)
    started = set(threading.enumerate()) - before
    assert len(started) >= 2
    del engine
    until = time.monotonic() + 60
    while any(thread.is_alive() for thread in started) and time.monotonic() < until:
        gc.collect()  # a thread may hold the engine for a moment more
        time.sleep(0.05)
    assert not any(thread.is_alive() for thread in started)
