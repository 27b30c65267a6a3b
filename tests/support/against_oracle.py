"""A Segmenter's answer beside the plain definition on what the class of transformers gives for the same pixels."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from support import reference
from support.views import frame_of, values_of
from torch import Tensor

from m2f_batch.config.segment import Task
from m2f_batch.vision.pixels.preprocess import prepare
from m2f_batch.vision.segmenter import Segmenter

Logits = Callable[[Any, Tensor], tuple[Tensor, Tensor]]


@torch.inference_mode()
def assert_as_defined(
    segmenter: Segmenter, model: Any, logits: Logits, image: NDArray[np.uint8], **switches: object
) -> int:
    """Hold the segments of an image to the oracle, and return how many there are.

    ``switches`` are those of the oracle's function, beside the published settings that the segmenter was made with.
    """
    labeling, task = segmenter.labeling, segmenter.labeling.task
    prepared = prepare(image, labeling.preprocess, labeling.cut)
    class_logits, mask_logits = logits(model, values_of([prepared], labeling.preprocess))
    frame = frame_of(prepared)
    sizes = {"canvas": frame.canvas, "content": frame.content, "output": frame.output}
    expected = ORACLES[task](class_logits[0], mask_logits[0], **sizes, **switches)
    found = segmenter([image])[0]
    reference.assert_same(found, expected)
    return len(expected)


ORACLES: dict[Task, Callable[..., list[reference.Region]]] = {
    "instance": reference.instance,
    "panoptic": reference.panoptic,
    "semantic": reference.semantic,
}
