"""Makes the input of the network and its loss from examples: a normalized canvas, and targets, on the device."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m2f_batch.models.preprocess_plan import PreprocessPlan, SizeHW
from m2f_batch.train.data.samples import Sample
from m2f_batch.train.objective.objective import ImageTarget
from m2f_batch.vision.pixels.preprocess import pixel_values


def on_device(
    samples: Sequence[Sample], canvas_hw: SizeHW, plan: PreprocessPlan, device: torch.device, max_objects: int
) -> tuple[Tensor, list[ImageTarget]]:
    """Return pixel values [B, 3, Hc, Wc], zeros beside the content, and the targets of each image.

    ``plan`` says how to normalize, as for ``segment``. Of more than ``max_objects`` objects the largest are kept.
    """
    values = pixel_values([sample.image for sample in samples], canvas_hw, plan, device)
    return values, [_target(sample, canvas_hw, device, max_objects) for sample in samples]


def too_many(samples: Sequence[Sample], max_objects: int) -> int:
    """Count the objects that are left out, because an image has more of them than the model has queries."""
    return sum(max(0, len(sample.labels) - max_objects) for sample in samples)


def _target(sample: Sample, canvas_hw: SizeHW, device: torch.device, max_objects: int) -> ImageTarget:
    masks, labels = sample.masks(), sample.labels
    if len(labels) > max_objects:
        largest = np.sort(np.argsort(-masks.sum((1, 2), dtype=np.int64), kind="stable")[:max_objects])
        masks, labels = masks[largest], labels[largest]
    ignored = sample.ignored_mask()
    return ImageTarget(
        sample.image_id,
        torch.tensor(labels, device=device),
        _on_canvas(masks, canvas_hw, device),
        None if ignored is None else _on_canvas(ignored[None], canvas_hw, device)[0],
    )


def _on_canvas(masks: NDArray[np.uint8], canvas_hw: SizeHW, device: torch.device) -> Tensor:
    """Lay masks, uint8 [N, h, w], at the top left of bool [N, Hc, Wc]."""
    canvas = torch.zeros((len(masks), *canvas_hw), dtype=torch.bool, device=device)
    canvas[:, : masks.shape[1], : masks.shape[2]] = torch.from_numpy(masks).to(device).bool()
    return canvas
