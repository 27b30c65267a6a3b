"""Images to segments in one process: a loaded model with its preprocessing and postprocessing around it.

segmenter = Segmenter.from_pretrained("path/or/hub-id", task="instance", device="cpu")
segments = segmenter(images)      # one list of Segment per image
rows = segmenter.rows(images)     # the same as rows, failures too
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from m2f_batch.checkpoint import read_checkpoint
from m2f_batch.config import ModelConfig, PostprocessConfig, PreprocessConfig, Task
from m2f_batch.config_loading import check_config
from m2f_batch.errors import ImageError
from m2f_batch.records import ImageRef, Row, Segment, error_row, ok_row
from m2f_batch.storage.model_source import find_model, local_directory
from m2f_batch.vision.image import DEFAULT_MAX_PIXELS
from m2f_batch.vision.labeling import Labeling, settle
from m2f_batch.vision.model import forward, load_model
from m2f_batch.vision.postprocess import instance_segments, panoptic_segments, semantic_segments
from m2f_batch.vision.preprocess import ImageLike, Prepared, pixel_values, prepare_image

POSTPROCESS = {"instance": instance_segments, "panoptic": panoptic_segments, "semantic": semantic_segments}
DEFAULT_THREADS, DEFAULT_BATCH_SIZE = 2, 8


class Segmenter:
    """A Mask2Former on one device. On CPU every image has a forward pass of its own, with ``threads`` threads."""

    def __init__(
        self,
        model: nn.Module,
        labeling: Labeling,
        device: torch.device,
        *,
        threads: int = DEFAULT_THREADS,
        batch_size: int = DEFAULT_BATCH_SIZE,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self.model, self.labeling, self.device = model, labeling, device
        self.threads, self.max_pixels = threads, max_pixels
        # a batched forward rounds otherwise than a single one; on CPU it gains nothing
        self.batch_size = 1 if device.type == "cpu" else batch_size

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        task: Task | None = None,
        device: str = "cpu",
        revision: str | None = None,
        precision: str = "fp32",
        size: Any = "checkpoint",
        threads: int = DEFAULT_THREADS,
        batch_size: int = DEFAULT_BATCH_SIZE,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        **postprocess: Any,
    ) -> "Segmenter":
        """Load a Hugging Face directory, hub id or bucket URI; ``postprocess`` are the config's postprocess keys.

        Raises UsageError for arguments that mean nothing, RunError for a model that does not load.
        """
        tree = {"uri": model, "revision": revision, "task": task, "precision": precision}
        model_config = check_config(ModelConfig, tree)
        source = find_model(model_config.uri, model_config.revision)
        checkpoint = read_checkpoint(local_directory(source), model_config.uri)
        labeling = settle(
            checkpoint,
            model_config,
            check_config(PreprocessConfig, {"size": size}),
            check_config(PostprocessConfig, postprocess),
        )
        where = torch.device(device)
        loaded = load_model(checkpoint.directory, where)
        return cls(loaded, labeling, where, threads=threads, batch_size=batch_size, max_pixels=max_pixels)

    def __call__(self, images: Sequence[ImageLike]) -> list[list[Segment]]:
        """Segments of PIL images, uint8 arrays [H, W, 3] or encoded bytes; raises ImageError with the index."""
        results = []
        for index, (_, result) in enumerate(self._results(images)):
            if isinstance(result, ImageError):
                result.index = index
                raise result
            results.append(result)
        return results

    def rows(self, images: Sequence[ImageLike]) -> list[Row]:
        """Rows of the contract, failures too; ``uri`` is ``memory:INDEX`` and ``version`` a hash of the image."""
        rows = []
        for index, (image, (prepared, result)) in enumerate(zip(images, self._results(images), strict=True)):
            ref = ImageRef(f"memory:{index}", _content_hash(image))
            if isinstance(result, ImageError):
                rows.append(error_row(ref, result))
            else:
                assert prepared is not None
                rows.append(ok_row(ref, prepared.output_hw, result))
        return rows

    def _results(self, images: Sequence[ImageLike]) -> list[tuple[Prepared | None, list[Segment] | ImageError]]:
        prepared = [prepare_image(image, self.labeling.preprocess, self.max_pixels) for image in images]
        labelled = iter(self.label([item for item in prepared if isinstance(item, Prepared)]))
        return [(item, next(labelled)) if isinstance(item, Prepared) else (None, item) for item in prepared]

    def label(self, images: Sequence[Prepared]) -> list[list[Segment] | ImageError]:
        """Segments of prepared images, or why there are none, in their order."""
        results: dict[int, list[Segment] | ImageError] = {}
        with pinned_threads(self.threads):
            for indices in _equal_canvases(images, self.batch_size):
                batch = [images[index] for index in indices]
                values = pixel_values(batch, self.labeling.preprocess, self.device)
                class_logits, mask_logits = forward(self.model, values, self.labeling.precision)
                for index, image, classes, masks in zip(indices, batch, class_logits, mask_logits, strict=True):
                    results[index] = self._segments(image, classes, masks)
        return [results[index] for index in range(len(images))]

    def _segments(self, image: Prepared, class_logits: Tensor, mask_logits: Tensor) -> list[Segment] | ImageError:
        sizes = {"canvas": image.canvas_hw, "content": image.content_hw, "output": image.output_hw}
        names = self.labeling.categories
        try:
            with torch.inference_mode():
                segments = POSTPROCESS[self.labeling.task](
                    class_logits, mask_logits, **sizes, **self.labeling.postprocess
                )
        except ImageError as error:
            error.size_hw = image.output_hw
            return error
        return [replace(segment, category=names[segment.category_id].name) for segment in segments]


def _equal_canvases(images: Sequence[Prepared], batch_size: int) -> Iterator[list[int]]:
    """Indices of images that may share a forward pass: only those of equal canvas, since padding changes logits."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        groups[image.canvas_hw].append(index)
    for indices in groups.values():
        for first in range(0, len(indices), batch_size):
            yield indices[first : first + batch_size]


@contextmanager
def pinned_threads(threads: int) -> Iterator[None]:
    """Torch with a fixed number of CPU threads, since another number rounds differently; the old one afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _content_hash(image: ImageLike) -> str:
    data = image if isinstance(image, bytes) else np.ascontiguousarray(np.asarray(image)).tobytes()
    return hashlib.sha256(data).hexdigest()[:32]
