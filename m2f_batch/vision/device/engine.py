"""Keeps a device busy: makes micro-batches of all that callers have submitted, each step on a thread of its own.

    submit -> buffer -> load (1 thread) -> forward (1 thread) -> finish (a few threads) -> the image's future

While one micro-batch computes, the next is copied and the views of the last become segments. Each step waits when the
one behind it lags, so that a handful of micro-batches are alive at most. No torch.device is named here.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

import torch

from m2f_batch.models.preprocess_plan import SizeHW
from m2f_batch.vision.device.micro_batches import BatchSizes, Buffer, find_batch_size
from m2f_batch.vision.device.views import ImageJob, ViewJob
from m2f_batch.vision.pixels.prepared import Content, Prepared, Result

Contents = Sequence[Content]
Loaded = TypeVar("Loaded")
Computed = TypeVar("Computed")
Begun = TypeVar("Begun")
LOADED_AHEAD, UNFINISHED = 1, 2  # micro-batches
SPENT = ("copy", "forward", "postprocess", "wait")


class Steps(Protocol[Loaded, Computed, Begun]):
    """Does an engine's work on a device of some kind. ``torch.OutOfMemoryError`` means too many views."""

    def begin(self, image: Prepared) -> Begun:
        """Begin with an image, whose views come later."""
        ...

    def load(self, contents: Contents, canvas_hw: SizeHW) -> Loaded:
        """Pixel values on the device, perhaps still on their way."""
        ...

    def forward(self, loaded: Loaded) -> Computed:
        """The prediction, perhaps still being computed."""
        ...

    def wait(self, computed: Computed) -> float:
        """Return when the prediction is there: seconds that the device spent on it, each second once."""
        ...

    def finish(self, image: Begun, at: int, computed: Computed, index: int) -> Result | None:
        """Finish view ``at`` of an image, entry ``index`` of the micro-batch. The last view returns the result."""
        ...

    def free_memory(self) -> None:
        """Give back what is cached on the device."""

    def seconds_of(self, contents: Contents, canvas_hw: SizeHW) -> float | None:
        """Seconds of one forward pass. None when it takes more memory than it should."""
        ...


class Engine(Generic[Loaded, Computed, Begun]):
    """The threads around one model. They end when nothing refers to it any more.

    ``fill`` makes all micro-batches of a canvas equally large with copies of a view, because compiling takes minutes a
    shape.
    """

    def __init__(
        self,
        steps: Steps[Loaded, Computed, Begun],
        sizes: BatchSizes,
        *,
        finishers: int,
        start_thread: Callable[[], None],
        start_finisher: Callable[[], None],
        fill: bool = False,
    ) -> None:
        self._steps, self._sizes, self._fill = steps, sizes, fill
        self._buffer: Buffer[ViewJob[Begun]] = Buffer()
        self.clock = Clock()
        self._loader, self._device, self._finishers = (
            ThreadPoolExecutor(threads, name, start)
            for name, threads, start in (
                ("load", 1, start_thread),
                ("forward", 1, start_thread),
                ("postprocess", finishers, start_finisher),
            )
        )
        for pool in (self._loader, self._device, self._finishers):
            pool.submit(int).result()  # a thread that cannot start is an error here, not a result that never comes
        self._loaded: deque[Future[None]] = deque()  # forward passes to come, for the loader only
        self._unfinished: deque[list[Future[None]]] = deque()  # by micro-batch, for the device thread only

    def submit(self, images: Sequence[Prepared]) -> list[Future[Result]]:
        """Futures of the images' results, in their order. An image that cannot be labeled is a result too."""
        jobs = [ImageJob(image, self._steps.begin(image)) for image in images]
        views = [ViewJob(job, at) for job in jobs for at in range(len(job.image.views))]
        self.clock.arrive(len(jobs))
        for job in jobs:
            job.future.add_done_callback(self.clock.leave)
        self._buffer.put(views)
        for _ in views:  # as many as could be needed: those that find nothing end at once
            self._loader.submit(self._load_next)
        return [job.future for job in jobs]

    def _load_next(self) -> None:
        while len(self._loaded) > LOADED_AHEAD:
            wait([self._loaded.popleft()])
        if self._sizes.size is None:
            self._find_size()
        taken = self._buffer.take(self._sizes.of)
        jobs = [job for job in taken if job.of.is_wanted()]
        if jobs:
            with _failing(jobs):
                contents = self._filled(jobs)
                # in a list, since a pool holds what it was given until the end of the call
                values = [self._load(contents, jobs[0].canvas_hw)]
                self._loaded.append(self._device.submit(self._compute, jobs, len(contents), values))

    def _find_size(self) -> None:
        job = self._buffer.commonest()
        if job is not None:
            content, canvas = job.content, job.canvas_hw
            probe = self._device.submit(find_batch_size, lambda size: self._steps.seconds_of([content] * size, canvas))
            # what fails here will fail again with an image that somebody waits for
            self._sizes.found(1 if probe.exception() else probe.result(), canvas)

    def _filled(self, jobs: list[ViewJob[Begun]]) -> Contents:
        contents = [job.content for job in jobs]
        missing = self._sizes.of(jobs[0].canvas_hw) - len(jobs)
        return contents + contents[-1:] * missing if self._fill else contents

    def _load(self, contents: Contents, canvas: SizeHW) -> Loaded | None:
        """Pixel values, or None when they do not fit."""
        try:
            with self.clock.timing("copy"):
                return self._steps.load(contents, canvas)
        except torch.OutOfMemoryError:
            return None

    def _compute(self, jobs: list[ViewJob[Begun]], loaded: int, holder: list[Loaded | None]) -> None:
        """The forward pass of a micro-batch of ``loaded`` views, or as many smaller ones as fit in memory."""
        values = holder.pop()
        canvas, alone = jobs[0].canvas_hw, False
        with _failing(jobs):
            while jobs:
                part = jobs[: self._sizes.of(canvas)]
                contents = self._filled(part)
                computed = self._forward(contents, canvas, values if len(contents) == loaded else None, is_last=alone)
                values = None
                if computed is None:
                    self._make_room()
                    alone = len(contents) == 1  # now nothing else holds memory, so the next failure is final
                    self._sizes.halve(canvas, len(contents))
                    continue
                alone = False
                self._unfinished.append(
                    [self._finishers.submit(self._finish, job, computed, index) for index, job in enumerate(part)]
                )
                del jobs[: len(part)]

    def _forward(self, contents: Contents, canvas: SizeHW, values: Loaded | None, *, is_last: bool) -> Computed | None:
        """The prediction, or None when it does not fit in memory, unless this is the last attempt."""
        while len(self._unfinished) >= UNFINISHED:
            wait(self._unfinished.popleft())
        try:
            if values is None:
                with self.clock.timing("copy"):
                    values = self._steps.load(contents, canvas)
            return self._steps.forward(values)
        except torch.OutOfMemoryError:
            if is_last:
                raise
            return None  # and not a retry right here, where the traceback still holds what did not fit

    def _make_room(self) -> None:
        while self._unfinished:
            wait(self._unfinished.popleft())
        self._steps.free_memory()

    def _finish(self, job: ViewJob[Begun], computed: Computed, index: int) -> None:
        with _failing([job]):
            self.clock.add("forward", self._steps.wait(computed))
            with self.clock.timing("postprocess"):
                result = self._steps.finish(job.of.begun, job.at, computed, index)
        if result is not None:
            job.of.succeed(result)


@contextmanager
def _failing(jobs: Sequence[ViewJob[Begun]]) -> Iterator[None]:
    """Give an exception, which is a bug or a device out of memory, to those who wait for the jobs."""
    try:
        yield
    except BaseException as error:
        for job in jobs:
            job.of.fail(error)
        raise


class Clock:
    """Counts seconds by what they were spent on, of all threads. ``wait`` is the time without any image to label."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(SPENT, 0.0)
        self._images, self._empty_since = 0, time.perf_counter()

    @contextmanager
    def timing(self, what: str) -> Iterator[None]:
        """Add the seconds of a block."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add(what, time.perf_counter() - begun)

    def add(self, what: str, seconds: float) -> None:
        """Add seconds."""
        with self._lock:
            self._seconds[what] += seconds

    def arrive(self, images: int) -> None:
        """Images have been submitted."""
        with self._lock:
            if self._images == 0 and images:
                self._seconds["wait"] += time.perf_counter() - self._empty_since
            self._images += images

    def leave(self, _: Future[Result]) -> None:
        """An image is done with."""
        with self._lock:
            self._images -= 1
            self._empty_since = time.perf_counter()

    def take(self) -> dict[str, float]:
        """Seconds of copy, forward, postprocess and wait since the last call."""
        with self._lock:
            now = time.perf_counter()
            if self._images == 0:
                self._seconds["wait"] += now - self._empty_since
                self._empty_since = now
            taken, self._seconds = self._seconds, dict.fromkeys(SPENT, 0.0)
            return taken
