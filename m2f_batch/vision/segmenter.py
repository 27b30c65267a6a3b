"""Turns images into segments in one process: a loaded model with preprocessing and post-processing around it.

segmenter = Segmenter.from_pretrained("path/or/hub-id", task="instance", device="cpu")
segments = segmenter("photo.jpg")              # one image: a list of Segment
several = segmenter(["photo.jpg", array])      # a list of images: a list of such lists
rows = segmenter.rows(["photo.jpg", array])    # the same as rows, failures too

The environment of the process is left alone: on a busy machine set OMP_WAIT_POLICY=PASSIVE before torch is imported,
as the commands do for themselves, since OpenMP reads it when it is loaded.
"""

import hashlib
import inspect
import os
import re
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import NamedTuple, overload

import numpy as np
import torch
from torch import nn

from m2f_batch.config.keywords import check_arguments, keywords_of, place_of
from m2f_batch.config.loading import check_config
from m2f_batch.config.section import MAX_PIXELS
from m2f_batch.config.segment import (
    ComputeConfig,
    InputConfig,
    ModelConfig,
    PostprocessConfig,
    PreprocessConfig,
    SegmentConfig,
    Task,
)
from m2f_batch.errors import ArgumentError, DecodeError, ImageError, in_arguments
from m2f_batch.models.checkpoint import Checkpoint, read_checkpoint
from m2f_batch.models.predictions import Predictor
from m2f_batch.models.preprocess_plan import SizeHW
from m2f_batch.models.published.licenses import terms_of
from m2f_batch.models.source import find_model, local_directory
from m2f_batch.records import ImageRef, Row, Segment, error_row, ok_row
from m2f_batch.vision.decode.given import Checked, ImageLike, Pixels, checked, is_one, loaded
from m2f_batch.vision.device.checked_model import Forward, load_checked
from m2f_batch.vision.device.engine import Engine
from m2f_batch.vision.device.micro_batches import BatchSizes
from m2f_batch.vision.device.replica import replica
from m2f_batch.vision.device.threads import pin_threads, pinned_threads
from m2f_batch.vision.label_settings import Labeling, settle
from m2f_batch.vision.pixels.prepared import Prepared, Result
from m2f_batch.vision.pixels.preprocess import prepare_image

__all__ = ["Segmenter", "pinned_threads"]

DEFAULT_THREADS = 2
COMPILED_BATCH_SIZE = 8  # not found by trying: each size would be compiled, which takes minutes
KEYWORDS = keywords_of(
    SegmentConfig, model="model.uri", threads="compute.threads_per_actor", device="compute.device"
)  # arguments by the keys that messages from below name
AHEAD = {False: 16, True: 128}  # images of a call that are decoded and wait, by whether a GPU gathers batches of them
FINISHERS = {"cuda": 2}  # threads of post-processing. Elsewhere one, because they share the cores with the forward pass


class _Labeled(NamedTuple):
    ref: ImageRef | None  # of an image that was read from a place
    output_hw: SizeHW | None  # None where the image could not be prepared, and the result says why
    result: Result


class Segmenter:
    """A model on one device, with the pixels, the post-processing and the labels of a run.

    ``from_pretrained`` makes one. On CPU every image has a forward pass of its own, with ``threads`` threads. So a row
    is byte for byte that of a run with the same settings. May be called from several threads at once: their images
    share micro-batches. A ``batch_size`` of None is found by trying.

    Source: each model's paper, by the code of ``m2f-batch segment`` (Mask2Former: arXiv 2112.01527, section 4.1).

        segmenter = Segmenter.from_pretrained("m2f_batch/demo/model", task="instance")
        [segment.category for segment in segmenter("photo.jpg")]  # ['crate', 'ball']
    """

    def __init__(
        self,
        model: Predictor | None = None,
        labeling: Labeling | None = None,
        device: torch.device | None = None,
        *,
        threads: int = DEFAULT_THREADS,
        batch_size: int | None = None,
        max_pixels: int = MAX_PIXELS,
        checked: Forward | None = None,
        **others: object,
    ) -> None:
        """Put the loaded parts together. Raises ArgumentError for all else, because ``from_pretrained`` loads a model.

        ``others`` are arguments of ``from_pretrained``, which mean nothing here.
        """
        hint = "Segmenter.from_pretrained(MODEL) loads one, which is then called with images"
        if not (isinstance(model, nn.Module) and isinstance(labeling, Labeling)) or device is None or others:
            raise ArgumentError("is not made so", field="Segmenter", hint=hint)
        self.model, self.labeling, self.device, self.checked = model, labeling, device, checked
        self.threads, self.max_pixels = threads, max_pixels
        if device.type == "cpu":
            batch_size = 1  # a batched forward rounds otherwise than a single one, and on CPU it gains nothing
        elif labeling.compile:
            batch_size = batch_size or COMPILED_BATCH_SIZE
        self._sizes = BatchSizes(batch_size)
        self._engine = Engine(
            replica(model, labeling, device),
            self._sizes,
            finishers=FINISHERS.get(device.type, 1),
            start_thread=partial(_start_thread, threads, device),
            # many small steps, each done before a second thread had woken up
            start_finisher=partial(_start_thread, 1, device),
            fill=labeling.compile,
        )

    @property
    def batch_size(self) -> int | None:
        """The views per forward pass, 1 on CPU. None until it was found by trying."""
        return self._sizes.size

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        task: Task | None = None,
        device: str = "cpu",
        revision: str | None = None,
        precision: str = "fp32",
        size: object = "checkpoint",
        window: object = None,
        normalize: object = None,
        threads: int = DEFAULT_THREADS,
        batch_size: int | None = None,
        max_pixels: int = MAX_PIXELS,
        **postprocess: object,
    ) -> "Segmenter":
        """Load a Hugging Face directory, a hub id (``id@revision``) or a bucket URI of such a directory.

        Whatever the plan of a run would say of labels, terms of a license and pixel values that look wrong is a
        warning. Only safetensors are read, and no code of a repository is run. Raises ArgumentError, a ValueError, for
        arguments that mean nothing, and RunError for a model that does not load.

        Args:
            model: where the model is.
            task: instance, semantic or panoptic; inferred from the model if None.
            device: of torch: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` is ``cuda`` where there is a GPU.
            revision: branch, tag or commit of a hub id.
            precision: ``fp32``, ``bf16`` or ``fp16`` (autocast).
            size: pixels that the model sees: ``checkpoint``, ``paper``, ``{"height": 512, "width": 512}`` or
                ``{"shortest_edge": 800, "longest_edge": 1333}``.
            window: ``{"size": 512, "stride": 384}`` in pixels of the resized image, semantic only.
            normalize: ``{"mean": [...], "std": [...]}`` of red, green and blue, for pixels from 0 to 1.
            threads: CPU threads of the forward pass. Another number rounds otherwise.
            batch_size: views of equal canvas per forward pass on CUDA; found by trying if None.
            max_pixels: of one image, checked before it is decoded.
            postprocess: keys of the config's section of that name, e.g. ``score_threshold=0.3``.
        """
        with in_arguments(KEYWORDS):
            own = [*inspect.signature(cls.from_pretrained).parameters][:-1]  # the last are those of postprocess
            known = [*own, *PostprocessConfig.model_fields]
            aliases = [*PostprocessConfig.key_aliases]
            check_arguments(postprocess, [*known, *aliases], KEYWORDS, f"arguments: {', '.join(known)}")
            with in_arguments({"uri": "model"}):
                place = place_of(model, "model")
                config = check_config(
                    ModelConfig, {"uri": place, "revision": revision, "task": task, "precision": precision}
                )
            with in_arguments({"threads_per_actor": "threads"}):
                compute = check_config(ComputeConfig, {"threads_per_actor": threads, "batch_size": batch_size})
                pixels = check_config(InputConfig, {"uri": "-", "max_pixels": max_pixels})
            where = _device(device)
            checkpoint = read_checkpoint(local_directory(find_model(config.uri, config.revision)), config.uri)
            made = cls.from_checkpoint(
                checkpoint,
                config,
                device=where,
                postprocess=postprocess,
                size=size,
                window=window,
                normalize=normalize,
                threads=compute.threads_per_actor,
                batch_size=compute.batch_size,
                max_pixels=pixels.max_pixels,
            )
        if made.checked is not None and (warning := made.checked.warning()):
            warnings.warn(warning, RuntimeWarning, stacklevel=2)
        for note in (*made.labeling.notes, *terms_of(checkpoint.license)):
            warnings.warn(note, stacklevel=2)
        if doubt := made.labeling.doubt():
            warnings.warn(f"{doubt}; the argument is normalize", stacklevel=2)
        return made

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        config: ModelConfig,
        *,
        device: str,
        postprocess: Mapping[str, object],
        size: object = "checkpoint",
        window: object = None,
        normalize: object = None,
        threads: int = DEFAULT_THREADS,
        batch_size: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> "Segmenter":
        """Load the files of ``checkpoint``, which are on this machine and were found to be allowed, by its ``config``.

        ``postprocess``, ``size``, ``window``, ``normalize``, ``threads``, ``batch_size``, ``max_pixels`` and ``device``
        are those of ``from_pretrained``. Raises UsageError and RunError where that raises ArgumentError and RunError.
        """
        labeling = settle(
            checkpoint,
            config,
            check_config(PreprocessConfig, {"size": size, "window": window, "normalize": normalize}),
            check_config(PostprocessConfig, dict(postprocess)),
        )
        where = torch.device(device)
        model, checked = load_checked(
            checkpoint.directory,
            where,
            task=labeling.task,
            precision=labeling.precision,
            threads=threads,
            as_published=labeling.as_published,
        )
        return cls(
            model,
            labeling,
            where,
            threads=threads,
            batch_size=batch_size,
            max_pixels=max_pixels,
            checked=checked,
        )

    @overload  # a text is a sequence of texts, too
    def __call__(self, images: ImageLike) -> list[Segment]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, images: Sequence[ImageLike]) -> list[list[Segment]]: ...
    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> list[Segment] | list[list[Segment]]:
        """Return the segments of one image, or of each of several: a list of them, best first as the task has it.

        Each of ``images``, or the one, is a path or URI (``s3://bucket/a.jpg``, ``file:///a.jpg``), encoded bytes, a
        PIL image, or an array in RGB order: uint8 [H, W], [H, W, 3] or [H, W, 4]. Its pixels are those of a run:
        upright by EXIF, gray repeated, and what is transparent over white. Masks have the size [H, W] of the upright
        image.

        Raises ImageError for the first image that cannot be had or labeled (DecodeError for one that cannot be
        decoded), with its ``index``. Raises ArgumentError for what has no form of an image, and TransientError or
        RunError where a place does not answer.
        """
        found = []
        for index, (_, _, result) in enumerate(self._labeled(checked(images))):
            if isinstance(result, ImageError):
                error = result.with_field("max_pixels") if isinstance(result, DecodeError) else result
                error.index = index
                raise error
            found.append(result)
        return found[0] if is_one(images) else found

    @overload  # a text is a sequence of texts, too
    def rows(self, images: ImageLike) -> Row: ...  # type: ignore[overload-overlap]
    @overload
    def rows(self, images: Sequence[ImageLike]) -> list[Row]: ...
    def rows(self, images: ImageLike | Sequence[ImageLike]) -> Row | list[Row]:
        """Return the row of one image, or of each of several, failures too, with the fields of ``annotations``.

        The row of a path or URI is that of a run. One of memory has the uri ``memory:INDEX`` and a hash of the image as
        version. ``m2f_batch.records.table_of`` makes an Arrow table of rows. ``images`` are those of a call. Raises
        ArgumentError for what has no form of an image, and TransientError or RunError where a place does not answer.
        """
        rows, given = [], checked(images)
        for index, (place, output_hw, result) in enumerate(self._labeled(given)):
            ref = place or ImageRef(f"memory:{index}", _content_hash(given[index]))
            if isinstance(result, ImageError):
                rows.append(error_row(ref, result))
            else:
                assert output_hw is not None
                rows.append(ok_row(ref, output_hw, result))
        return rows[0] if is_one(images) else rows

    def _labeled(self, images: list[Checked]) -> list[_Labeled]:
        items: list[tuple[ImageRef | None, SizeHW | ImageError]] = []

        def submitted() -> Iterator[Future[Result]]:
            begun: deque[Future[Result]] = deque()
            for pixels, ref in loaded(images):  # each as soon as it is decoded: the next is decoded while it computes
                item = pixels if isinstance(pixels, ImageError) else self._prepared(pixels)
                items.append((ref, item if isinstance(item, ImageError) else item.output_hw))
                if isinstance(item, Prepared):
                    begun += self._engine.submit([item])
                    yield begun[-1]
                if len(begun) > AHEAD[self.device.type == "cuda"]:
                    wait([begun.popleft()])

        labeled = iter(self._gather(submitted()))
        return [
            _Labeled(ref, None, item) if isinstance(item, ImageError) else _Labeled(ref, item, next(labeled))
            for ref, item in items
        ]

    def _prepared(self, image: Pixels) -> Prepared | ImageError:
        return prepare_image(image, self.labeling.preprocess, self.max_pixels, self.labeling.cut)

    def label(self, images: Sequence[Prepared]) -> list[Result]:
        """Return the segments of prepared ``images``, or why there are none, in their order, once all are there."""
        return self._gather(future for future in self._engine.submit(images))

    def _gather(self, futures: Iterator[Future[Result]]) -> list[Result]:
        """Results in their order. Whatever is raised, nothing computes for this caller afterwards."""
        submitted = []
        try:
            for future in futures:
                submitted.append(future)
            return [future.result() for future in submitted]
        finally:
            for future in submitted:
                future.cancel()
            wait(submitted)

    def take_seconds(self) -> dict[str, float]:
        """Return the seconds spent on copy, forward and postprocess, and in wait for images, since the last call."""
        return self._engine.clock.take()


def _start_thread(threads: int, device: torch.device) -> None:
    """Begin a thread that computes. Both are settings of each thread."""
    pin_threads(threads)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def _device(name: str) -> str:
    """Return a device of torch. Raises ArgumentError for what names none of ours, and for a GPU that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    allowed = "auto, cpu, cuda, cuda:0, ..."
    if not isinstance(name, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ArgumentError("is not known", field="device", value=name, allowed=allowed)
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count and (count or torch.version.cuda is None):
        problem = f"is not there: torch sees {count} GPUs here"  # without a driver, loading says what is wrong with it
        raise ArgumentError(problem, field="device", value=name, allowed=allowed)
    return str(device)


def _content_hash(image: Checked) -> str:
    data = image if isinstance(image, bytes) else np.ascontiguousarray(np.asarray(image)).tobytes()
    return hashlib.sha256(data).hexdigest()[:32]
