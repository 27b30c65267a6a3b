"""Runs the steps of a micro-batch on the device of one loaded model, from the contents of views to segments.

On CUDA, copies and post-processing run on streams of their own, so that they overlap with the forward pass of another
micro-batch. Events say when something is there.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from m2f_batch.models.loading import forward
from m2f_batch.models.predictions import Prediction, Predictor
from m2f_batch.models.preprocess_plan import SizeHW
from m2f_batch.records import Segment
from m2f_batch.vision.cuts.view import View
from m2f_batch.vision.cuts.whole import WHOLE
from m2f_batch.vision.device.engine import Contents, Steps
from m2f_batch.vision.device.views import Joining
from m2f_batch.vision.label_settings import Labeling
from m2f_batch.vision.masks.frame import Frame
from m2f_batch.vision.masks.windows import WindowLogits
from m2f_batch.vision.pixels.prepared import Prepared, Result
from m2f_batch.vision.pixels.preprocess import pixel_values
from m2f_batch.vision.postprocess import WindowSegments, segments_of, window_logits

MEMORY_SHARE = 0.5  # of the free device memory, for a forward pass that is tried: post-processing needs some too
Segmenting = Callable[[Prediction, Frame], list[Segment]]


class Loaded(NamedTuple):
    """Pixel values [B, 3, Hc, Wc], and the event of their arrival where they may still be on their way."""

    values: Tensor
    arrival: torch.cuda.Event | None = None


class Computed(NamedTuple):
    """The prediction of a micro-batch, perhaps still being computed."""

    prediction: Prediction
    seconds: "Seconds"


class Joined(Protocol):
    """An image whose views are joined."""

    def take(self, at: int, prediction: Prediction) -> Result | None:
        """Take the prediction of view ``at``. Returns the image's result with its last view, else None."""


class Seconds:
    """Seconds that a forward pass took are waited for and given out once. Who asks later gets 0."""

    def __init__(self, measure: Callable[[], float]) -> None:
        self._measure, self._lock, self._given = measure, threading.Lock(), False

    def take(self) -> float:
        """Wait until the forward pass is done."""
        with self._lock:
            seconds, self._given = 0.0 if self._given else self._measure(), True
            return seconds


def replica(model: Predictor, labeling: Labeling, device: torch.device) -> Steps[Loaded, Computed, Joined]:
    """The steps of a model that was loaded on ``device``."""
    return CudaReplica(model, labeling, device) if device.type == "cuda" else Replica(model, labeling, device)


class Replica:
    """The steps on a device that has computed when the call returns, as a CPU has."""

    def __init__(self, model: Predictor, labeling: Labeling, device: torch.device) -> None:
        self.model, self.labeling, self.device = model, labeling, device

    def begin(self, image: Prepared) -> Joined:
        """Join the image's views as its cut says."""
        return joining(image, self.labeling, self._segments)

    def load(self, contents: Contents, canvas_hw: SizeHW) -> Loaded:
        """Pixel values of contents on equal canvases."""
        return Loaded(pixel_values(contents, canvas_hw, self.labeling.preprocess, self.device))

    def forward(self, loaded: Loaded) -> Computed:
        """The prediction of a micro-batch."""
        begun = time.perf_counter()
        prediction = forward(self.model, loaded.values, self.labeling.precision)
        seconds = time.perf_counter() - begun
        return Computed(prediction, Seconds(lambda: seconds))

    def wait(self, computed: Computed) -> float:
        """Seconds of the forward pass."""
        return computed.seconds.take()

    def finish(self, image: Joined, at: int, computed: Computed, index: int) -> Result | None:
        """The image's segments, or why there are none, with its last view."""
        return image.take(at, computed.prediction.of_image(index))

    def free_memory(self) -> None:
        """Nothing is cached."""

    def seconds_of(self, contents: Contents, canvas_hw: SizeHW) -> float | None:
        """Seconds of a forward pass, the second of two since the first one warms up."""
        return [self.wait(self.forward(self.load(contents, canvas_hw))) for _ in range(2)][1]

    def _segments(self, prediction: Prediction, frame: Frame) -> list[Segment]:
        return segments_of(prediction, self.labeling.task, frame, self.labeling.postprocess)


class CudaReplica:
    """The steps on CUDA, where a call returns before its work is done."""

    def __init__(self, model: Predictor, labeling: Labeling, device: torch.device) -> None:
        self.model, self.labeling, self.device = model, labeling, device
        self._copying, self._finishing = _stream(device), _stream(device)

    def begin(self, image: Prepared) -> Joined:
        """Join the image's views as its cut says."""
        return joining(image, self.labeling, self._segments)

    def load(self, contents: Contents, canvas_hw: SizeHW) -> Loaded:
        """Pixel values on their way, and the event of their arrival."""
        with torch.cuda.stream(self._copying):
            values = pixel_values(contents, canvas_hw, self.labeling.preprocess, self.device)
            return Loaded(values, self._copying.record_event())

    def forward(self, loaded: Loaded) -> Computed:
        """Launch the forward pass of a micro-batch."""
        values, arrival = loaded
        stream = torch.cuda.current_stream(self.device)
        assert arrival is not None
        stream.wait_event(arrival)
        values.record_stream(stream)
        begun = stream.record_event(_timed_event())
        prediction = forward(self.model, values, self.labeling.precision)
        done = stream.record_event(_timed_event())

        def measure() -> float:
            done.synchronize()
            return begun.elapsed_time(done) / 1000

        return Computed(prediction, Seconds(measure))

    def wait(self, computed: Computed) -> float:
        """Seconds of the forward pass, once it is done."""
        return computed.seconds.take()

    def finish(self, image: Joined, at: int, computed: Computed, index: int) -> Result | None:
        """The image's segments, or why there are none, with its last view.

        All threads share a stream, and with it whatever post-processing keeps on the device between images.
        """
        prediction = computed.prediction.of_image(index)
        with torch.cuda.stream(self._finishing):
            for tensor in prediction.tensors:
                tensor.record_stream(self._finishing)
            return image.take(at, prediction)

    def _segments(self, prediction: Prediction, frame: Frame) -> list[Segment]:
        """Segments by the device, or by the CPU when the device has no room for them."""
        task, settings = self.labeling.task, self.labeling.postprocess
        try:
            return segments_of(prediction, task, frame, settings)
        except torch.OutOfMemoryError:
            pass  # what did not fit is held until this block ends
        self.free_memory()
        return segments_of(prediction.cpu(), task, frame, settings)

    def free_memory(self) -> None:
        """Give cached blocks back."""
        torch.cuda.empty_cache()

    def seconds_of(self, contents: Contents, canvas_hw: SizeHW) -> float | None:
        """Seconds of a forward pass, the second of two. None when it takes too much of the free memory."""
        held = torch.cuda.memory_allocated(self.device)
        free = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device) - held
        torch.cuda.reset_peak_memory_stats(self.device)
        try:
            seconds = [self.wait(self.forward(self.load(contents, canvas_hw))) for _ in range(2)][1]
        except torch.OutOfMemoryError:
            seconds = None
        if seconds is not None and torch.cuda.max_memory_allocated(self.device) - held <= MEMORY_SHARE * free:
            return seconds
        self.free_memory()
        return None


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _timed_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def joining(image: Prepared, labeling: Labeling, segments: Segmenting) -> Joined:
    """Join an image's views: their predictions, or the segments of each."""
    cut, size = labeling.cut, image.output_hw

    def finished(found: list[Segment]) -> Result:
        return [replace(segment, category=labeling.categories[segment.category_id].name) for segment in found]

    def segmented(joined: tuple[Prediction, View]) -> Result:
        prediction, view = joined
        return finished(segments(prediction, Frame(view.canvas_hw, view.content_hw, size)))

    def of_window(prediction: Prediction, view: View) -> list[Segment]:
        return segments(prediction, Frame(view.canvas_hw, view.content_hw, (view.window.height, view.window.width)))

    def of_part(prediction: Prediction, view: View) -> WindowLogits:
        return window_logits(_copied(prediction, view))

    if cut.joins == "classes":
        if len(image.views) == 1:
            return Joining(image, _as_it_is, WHOLE.join(labeling.preprocess, size), segmented)
        join = WindowSegments(image.views, cut.scaled_hw(labeling.preprocess, size), size)
        return Joining(image, of_part, join, finished)
    if cut.joins == "predictions":
        make = _as_it_is if len(image.views) == 1 else _copied
        return Joining(image, make, cut.join(labeling.preprocess, size), segmented)
    return Joining(image, of_window, cut.join(labeling.preprocess, size), finished)


def _as_it_is(prediction: Prediction, _: View) -> Prediction:
    return prediction


def _copied(prediction: Prediction, _: View) -> Prediction:
    """Copy the prediction of one view, since a part of a micro-batch's would keep all of it in memory."""
    return type(prediction)(*(tensor.clone() for tensor in prediction.tensors))
