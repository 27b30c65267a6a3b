"""Turns images into segments in one process: a loaded model with preprocessing and post-processing around it.

segmenter = Segmenter.from_pretrained("path/or/hub-id", task="instance", device="cpu")
segments = segmenter(images)      # one list of Segment per image
rows = segmenter.rows(images)     # the same as rows, failures too

The environment of the process is left alone: on a busy machine set OMP_WAIT_POLICY=PASSIVE before torch is imported,
as the commands do for themselves, since OpenMP reads it when it is loaded.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial

import numpy as np
import torch

from m2f_batch.config.loading import check_config
from m2f_batch.config.section import MAX_PIXELS
from m2f_batch.config.segment import ModelConfig, PostprocessConfig, PreprocessConfig, Task
from m2f_batch.errors import DecodeError, ImageError
from m2f_batch.models.checkpoint import Checkpoint, read_checkpoint
from m2f_batch.models.predictions import Predictor
from m2f_batch.models.published.licenses import terms_of
from m2f_batch.models.source import find_model, local_directory
from m2f_batch.records import ImageRef, Row, Segment, error_row, ok_row
from m2f_batch.vision.device.checked_model import Forward, load_checked
from m2f_batch.vision.device.engine import Engine
from m2f_batch.vision.device.micro_batches import BatchSizes
from m2f_batch.vision.device.replica import replica
from m2f_batch.vision.device.threads import pin_threads, pinned_threads
from m2f_batch.vision.label_settings import Labeling, settle
from m2f_batch.vision.pixels.prepared import Prepared, Result
from m2f_batch.vision.pixels.preprocess import ImageLike, prepare_image

__all__ = ["Segmenter", "pinned_threads"]

DEFAULT_THREADS = 2
COMPILED_BATCH_SIZE = 8  # not found by trying: each size would be compiled, which takes minutes
FINISHERS = {"cuda": 2}  # threads of post-processing. Elsewhere one, because they share the cores with the forward pass


class Segmenter:
    """A Mask2Former on one device. On CPU every image has a forward pass of its own, with ``threads`` threads.

    May be called from several threads at once: their images share micro-batches. A ``batch_size`` of None is found by
    trying.
    """

    def __init__(
        self,
        model: Predictor,
        labeling: Labeling,
        device: torch.device,
        *,
        threads: int = DEFAULT_THREADS,
        batch_size: int | None = None,
        max_pixels: int = MAX_PIXELS,
        checked: Forward | None = None,
    ) -> None:
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
        """Views per forward pass. None until it was found by trying."""
        return self._sizes.size

    @classmethod
    def from_pretrained(
        cls,
        model: str,
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
        """Load a Hugging Face directory, hub id or bucket URI. ``postprocess`` are the config's postprocess keys.

        ``size``, ``window`` and ``normalize`` are those of ``preprocess``. Whatever the plan of a run would say of
        labels, terms of a license and pixel values that look wrong is a warning. Raises UsageError for arguments that
        mean nothing, RunError for a model that does not load.
        """
        tree = {"uri": model, "revision": revision, "task": task, "precision": precision}
        config = check_config(ModelConfig, tree)
        checkpoint = read_checkpoint(local_directory(find_model(config.uri, config.revision)), config.uri)
        made = cls.from_checkpoint(
            checkpoint,
            config,
            device=device,
            size=size,
            window=window,
            normalize=normalize,
            postprocess=postprocess,
            threads=threads,
            batch_size=batch_size,
            max_pixels=max_pixels,
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
        """Load files that are on this machine and were found to be allowed. Raises as ``from_pretrained``."""
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

    def __call__(self, images: Sequence[ImageLike]) -> list[list[Segment]]:
        """Segments of PIL images, uint8 arrays [H, W, 3] or encoded bytes. Raises ImageError with the index."""
        results = []
        for index, (_, result) in enumerate(self._results(images)):
            if isinstance(result, ImageError):
                result.index = index
                raise result
            results.append(result)
        return results

    def rows(self, images: Sequence[ImageLike], *, cap_key: str = "input.max_pixels") -> list[Row]:
        """Return rows of the contract, failures too, with the uri ``memory:INDEX`` and a hash of the image as version.

        ``cap_key``: the setting that a row names for an image of more than ``max_pixels``.
        """
        rows = []
        for index, (image, (prepared, result)) in enumerate(zip(images, self._results(images), strict=True)):
            ref = ImageRef(f"memory:{index}", _content_hash(image))
            if isinstance(result, ImageError):
                rows.append(error_row(ref, result.with_field(cap_key) if isinstance(result, DecodeError) else result))
            else:
                assert prepared is not None
                rows.append(ok_row(ref, prepared.output_hw, result))
        return rows

    def _results(self, images: Sequence[ImageLike]) -> list[tuple[Prepared | None, Result]]:
        prepared: list[Prepared | ImageError] = []

        def submitted() -> Iterator[Future[Result]]:
            for image in images:  # each as soon as it is decoded: the next is decoded while it computes
                item = prepare_image(image, self.labeling.preprocess, self.max_pixels, self.labeling.cut)
                prepared.append(item)
                if isinstance(item, Prepared):
                    yield from self._engine.submit([item])

        labeled = iter(self._gather(submitted()))
        return [(item, next(labeled)) if isinstance(item, Prepared) else (None, item) for item in prepared]

    def label(self, images: Sequence[Prepared]) -> list[Result]:
        """Segments of prepared images, or why there are none, in their order. Blocks until all are there."""
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
        """Seconds spent on copy, forward and postprocess, and in wait for images, since the last call."""
        return self._engine.clock.take()


def _start_thread(threads: int, device: torch.device) -> None:
    """Begin a thread that computes. Both are settings of each thread."""
    pin_threads(threads)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def _content_hash(image: ImageLike) -> str:
    data = image if isinstance(image, bytes) else np.ascontiguousarray(np.asarray(image)).tobytes()
    return hashlib.sha256(data).hexdigest()[:32]
