"""One loaded model on its device: the steps of a micro-batch, from prepared images to segments.

On CUDA, copies and post-processing run on streams of their own, so that they overlap with the forward pass of another
micro-batch; events say when something is there.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from m2f_batch.config.segment import Task
from m2f_batch.errors import ImageError
from m2f_batch.models.loading import forward
from m2f_batch.models.predictions import Prediction, Predictor
from m2f_batch.records import Segment
from m2f_batch.vision.device.engine import Result, Steps
from m2f_batch.vision.label_settings import Labeling
from m2f_batch.vision.pixels.preprocess import Prepared, pixel_values
from m2f_batch.vision.postprocess import instance_segments, panoptic_segments, semantic_segments

POSTPROCESS: dict[Task, Callable[..., list[Segment]]] = {
    "instance": instance_segments,
    "panoptic": panoptic_segments,
    "semantic": semantic_segments,
}
MEMORY_SHARE = 0.5  # of the free device memory, for a forward pass that is tried; post-processing needs some too


class Computed(NamedTuple):
    """The prediction of a micro-batch, perhaps still being computed."""

    prediction: Prediction
    seconds: "Seconds"


class Seconds:
    """Seconds that a forward pass took, waited for and given out once; 0 to all who ask later."""

    def __init__(self, measure: Callable[[], float]) -> None:
        self._measure, self._lock, self._given = measure, threading.Lock(), False

    def take(self) -> float:
        """Wait until the forward pass is done."""
        with self._lock:
            seconds, self._given = 0.0 if self._given else self._measure(), True
            return seconds


def replica(model: Predictor, labeling: Labeling, device: torch.device) -> Steps:
    """The steps of a model that was loaded on ``device``."""
    kind = CudaReplica if device.type == "cuda" else Replica
    return kind(model, labeling, device)


class Replica:
    """The steps on a device that has computed when the call returns, as a CPU has."""

    def __init__(self, model: Predictor, labeling: Labeling, device: torch.device) -> None:
        self.model, self.labeling, self.device = model, labeling, device

    def load(self, images: list[Prepared]) -> Tensor:
        """Pixel values [B, 3, Hc, Wc] of images of equal canvas."""
        return pixel_values(images, self.labeling.preprocess, self.device)

    def forward(self, loaded: Tensor) -> Computed:
        """Logits of a micro-batch."""
        begun = time.perf_counter()
        prediction = forward(self.model, loaded, self.labeling.precision)
        seconds = time.perf_counter() - begun
        return Computed(prediction, Seconds(lambda: seconds))

    def wait(self, computed: Computed) -> float:
        """Seconds of the forward pass."""
        return computed.seconds.take()

    def finish(self, image: Prepared, computed: Computed, index: int) -> Result:
        """Segments of one image of a micro-batch, or why there are none."""
        return segments_of(image, computed.prediction.of_image(index), self.labeling)

    def free_memory(self) -> None:
        """Nothing is cached."""

    def seconds_of(self, images: list[Prepared]) -> float | None:
        """Seconds of a forward pass, the second of two since the first one warms up."""
        return [self.wait(self.forward(self.load(images))) for _ in range(2)][1]


class CudaReplica:
    """The steps on CUDA, where a call returns before its work is done."""

    def __init__(self, model: Predictor, labeling: Labeling, device: torch.device) -> None:
        self.model, self.labeling, self.device = model, labeling, device
        self._copying, self._finishing = _stream(device), _stream(device)

    def load(self, images: list[Prepared]) -> tuple[Tensor, torch.cuda.Event]:
        """Pixel values on their way, and the event of their arrival."""
        with torch.cuda.stream(self._copying):
            values = pixel_values(images, self.labeling.preprocess, self.device)
            return values, self._copying.record_event()

    def forward(self, loaded: tuple[Tensor, torch.cuda.Event]) -> Computed:
        """Launch the forward pass of a micro-batch."""
        values, arrival = loaded
        stream = torch.cuda.current_stream(self.device)
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

    def finish(self, image: Prepared, computed: Computed, index: int) -> Result:
        """Segments of one image; on the CPU when the device has no room for them.

        All threads share a stream, and with it whatever post-processing keeps on the device between images.
        """
        prediction = computed.prediction.of_image(index)
        try:
            with torch.cuda.stream(self._finishing):
                for tensor in prediction.tensors:
                    tensor.record_stream(self._finishing)
                return segments_of(image, prediction, self.labeling)
        except torch.OutOfMemoryError:
            pass  # what did not fit is held until this block ends
        self.free_memory()
        return segments_of(image, prediction.cpu(), self.labeling)

    def free_memory(self) -> None:
        """Give cached blocks back."""
        torch.cuda.empty_cache()

    def seconds_of(self, images: list[Prepared]) -> float | None:
        """Seconds of a forward pass, the second of two; None when it takes too much of the free memory."""
        held = torch.cuda.memory_allocated(self.device)
        free = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device) - held
        torch.cuda.reset_peak_memory_stats(self.device)
        try:
            seconds = [self.wait(self.forward(self.load(images))) for _ in range(2)][1]
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


def segments_of(image: Prepared, prediction: Prediction, labeling: Labeling) -> Result:
    """Segments of one image from its prediction, or why there are none."""
    sizes = {"canvas": image.canvas_hw, "content": image.content_hw, "output": image.output_hw}
    try:
        with torch.inference_mode():
            segments = POSTPROCESS[labeling.task](*prediction.tensors, **sizes, **labeling.postprocess)
    except ImageError as error:
        error.size_hw = image.output_hw
        return error
    return [replace(segment, category=labeling.categories[segment.category_id].name) for segment in segments]
