"""One image through the stages of the job, one after the other in this process, keeping all that comes between."""

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m2f_batch.errors import ImageError, TransientError
from m2f_batch.explain.recorded import Setup
from m2f_batch.inputs.fetch import fetch
from m2f_batch.messages.masking import redact
from m2f_batch.models.predictions import PixelLogits, Prediction
from m2f_batch.records import ImageRef, Row, Segment, error_row, ok_row
from m2f_batch.storage.places import open_store
from m2f_batch.storage.uris import shown
from m2f_batch.vision.cuts.view import View
from m2f_batch.vision.decode.header import describe
from m2f_batch.vision.decode.image import decode
from m2f_batch.vision.device.checked_model import Forward, load_checked
from m2f_batch.vision.device.replica import replica
from m2f_batch.vision.device.threads import pinned_threads
from m2f_batch.vision.masks.frame import Frame
from m2f_batch.vision.pixels.preprocess import Prepared, pixel_values, prepare


@dataclass
class Findings:
    """The results of each stage for one image. Those after a failure stay None.

    ``rgb`` uint8 [H, W, 3], ``values`` float32 [3, Hc, Wc] of the first view, ``predictions`` of all views, float32 on
    the CPU. ``class_logits`` [Q, C + 1] and ``mask_logits`` [Q, h, w] are those of an image of one view whose queries
    have masks. ``seconds`` by stage. ``version`` is the image's now, None when there is no such file.
    """

    ref: ImageRef
    version: str | None = None
    data: bytes | None = None
    header: dict[str, Any] | None = None
    rgb: NDArray[np.uint8] | None = None
    prepared: Prepared | None = None
    values: Tensor | None = None
    class_logits: Tensor | None = None
    mask_logits: Tensor | None = None
    predictions: list[Prediction] = field(default_factory=list)
    segments: list[Segment] | None = None
    error: ImageError | None = None
    cause: list[str] | None = None
    checked: Forward | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def view(self) -> View:
        """The first view of an image that was prepared, as a rule the only one."""
        assert self.prepared is not None
        return self.prepared.views[0]

    @property
    def frame(self) -> Frame:
        """The frame of the logits of a prepared image, which is all content where they are the mean over windows."""
        assert self.prepared is not None
        view, windows = self.view, [view.window for view in self.prepared.views]
        if len(windows) > 1:
            scaled = max(w.y + w.height for w in windows), max(w.x + w.width for w in windows)
            return Frame(scaled, scaled, self.prepared.output_hw)
        return Frame(view.canvas_hw, view.content_hw, self.prepared.output_hw)

    def row(self) -> Row:
        """Return the row that follows."""
        if self.error is not None:
            return error_row(self.ref, self.error)
        assert self.prepared is not None and self.segments is not None
        return ok_row(self.ref, self.prepared.output_hw, self.segments)

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the seconds of a block to those of a stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - begun, 6)


def read_and_prepare(found: Findings, setup: Setup, stored: Row | None) -> None:
    """Fetch, decode and resize an image. What is wrong with it ends up in ``found.error``."""
    with _failing(found):
        with found.timing("fetch"):
            found.data = _fetch(found, stored)
        try:
            with found.timing("decode"):
                found.rgb = decode(found.data, max_pixels=setup.max_pixels)
            found.header = describe(found.data, found.ref.uri, whole=True)
            with found.timing("resize"):
                found.prepared = prepare(found.rgb, setup.labeling.preprocess, setup.labeling.cut)
            contents, canvas_hw = found.prepared.contents[:1], found.view.canvas_hw
            found.values = pixel_values(contents, canvas_hw, setup.labeling.preprocess, torch.device("cpu"))[0]
        except MemoryError as error:
            raise TransientError(f"{shown(found.ref.uri)}: out of memory while decoding or resizing it") from error
    if found.data is not None and found.header is None:
        found.header = describe(found.data, found.ref.uri, whole=False)


def label(found: Findings, setup: Setup) -> None:
    """Forward pass and post-processing of a prepared image, with the threads and the code of an actor."""
    assert found.prepared is not None
    device = torch.device(setup.device)
    with _failing(found):
        with found.timing("load model"):
            model, found.checked = load_checked(
                setup.checkpoint.directory,
                device,
                task=setup.labeling.task,
                precision=setup.labeling.precision,
                threads=setup.threads,
                compile_model=setup.labeling.compile,
                as_published=setup.labeling.as_published,
            )
            steps = replica(model, setup.labeling, device)
        image, result = steps.begin(found.prepared), None
        for at, (content, view) in enumerate(zip(found.prepared.contents, found.prepared.views, strict=True)):
            with pinned_threads(setup.threads), found.timing("forward"):
                computed = steps.forward(steps.load([content], view.canvas_hw))
                steps.wait(computed)
            prediction = computed.prediction.of_image(0)
            found.predictions.append(type(prediction)(*(logits.float().cpu() for logits in prediction.tensors)))
            with pinned_threads(1), found.timing("postprocess"):
                result = steps.finish(image, at, computed, 0)
            if result is not None:
                break
        (first, *others) = found.predictions
        if not others and not isinstance(first, PixelLogits):
            found.class_logits, found.mask_logits = first.tensors
        assert result is not None
        if isinstance(result, ImageError):
            raise result
        found.segments = result


@contextmanager
def _failing(found: Findings) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # as in the row: it is printed, and kept in explain.json
        found.cause = [redact(line) for line in traceback.format_exception(error)]
        if not isinstance(error, ImageError):
            raise
        error.message = redact(error.message)
        found.error = error


def _fetch(found: Findings, stored: Row | None) -> bytes:
    """Fetch the bytes, those of now if the image was labeled and has changed since."""
    ref = found.ref
    try:
        data = fetch(ref)
    except ImageError as error:
        if error.reason != "Changed":
            raise
        entry = open_store(ref.uri).stat(ref.uri)
        found.version = entry.version if entry else None
        if entry is None or (
            stored is not None and stored["status"] == "error" and stored["error"]["type"] == "Changed"
        ):
            raise
        return fetch(ImageRef(ref.uri, entry.version))
    found.version = ref.version
    return data
