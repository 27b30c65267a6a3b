"""Logits as a trained model gives them, for the parts that need no model: what post-processing works on.

Masks have the shapes, places and areas of annotated objects. A query's logits fall off with the distance to its edge,
up to about +9 inside and -12 outside, with noise; every fourth query also half believes in another place. Queries that
are not kept repeat others' masks, as a model's do.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.lib.photos import object_masks
from m2f_batch.config.segment import AspectSize, ExactSize, Task
from m2f_batch.models.preprocess_plan import PreprocessPlan, SizeHW, with_size
from m2f_batch.models.processor import plan_from_processor

QUERIES, STRIDE = 100, 4
CLASSES: dict[Task, int] = {"instance": 80, "panoptic": 133, "semantic": 150}
STUFF_FROM = {80: 80, 133: 80, 150: 100}  # label ids from here on are stuff
CANVASES: dict[Task, AspectSize] = {  # the paper's test sizes: COCO, COCO, ADE20K
    "instance": AspectSize(shortest_edge=800, longest_edge=1333),
    "panoptic": AspectSize(shortest_edge=800, longest_edge=1333),
    "semantic": AspectSize(shortest_edge=640, longest_edge=2560),
}
SQUARE = ExactSize(height=384, width=384)  # what published checkpoints' processors say


@dataclass(frozen=True)
class Work:
    """One image's logits ([Q, C + 1], [Q, h, w]), its sizes (height, width) in pixels, and the task's options."""

    task: Task
    class_logits: Tensor
    mask_logits: Tensor
    canvas: SizeHW
    content: SizeHW
    output: SizeHW
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, SizeHW]:
        """The keyword arguments of all three functions."""
        return {"canvas": self.canvas, "content": self.content, "output": self.output}


def make_work(
    task: Task,
    output: SizeHW,
    kept: int,
    *,
    classes: int | None = None,
    size: AspectSize | ExactSize | None = None,
    plan: PreprocessPlan | None = None,
    queries: int = QUERIES,
    seed: int = 0,
) -> Work:
    """An image of which ``kept`` queries are confident, on the canvas of ``plan``, or on one of ``size``."""
    rng = np.random.default_rng(seed)
    classes = classes or CLASSES[task]
    plan = plan or with_size(plan_from_processor({}), size or CANVASES[task])
    canvas, content = plan.canvas_size(output), plan.content_size(output)
    coarse, whole = ((-(-height // STRIDE), -(-width // STRIDE)) for height, width in (content, canvas))
    masks = _objects(coarse, kept, seed) if task == "instance" else _tiling(coarse, kept, rng, seed)
    logits = np.full((queries, *whole), -10.0, np.float32)
    believed = [_logits(mask, rng) for mask in masks]
    for query in range(queries):
        plane = believed[query] if query < kept else 0.7 * believed[rng.integers(kept)]
        if query % 4 == 3:
            plane = np.maximum(plane, np.where(masks[rng.integers(kept)], -3, -20))
        logits[query, : coarse[0], : coarse[1]] = plane
    logits += _noise(logits.shape, rng)
    order = rng.permutation(queries)
    class_logits = _class_logits(queries, kept, classes, STUFF_FROM.get(classes, classes), rng)
    options = {"stuff_ids": frozenset(range(STUFF_FROM.get(classes, classes), classes))} if task == "panoptic" else {}
    return Work(task, class_logits[order], torch.from_numpy(logits[order]), canvas, content, output, options)


def _objects(size_hw: SizeHW, count: int, seed: int) -> list[NDArray[np.bool_]]:
    return [mask for mask, _ in zip(object_masks(size_hw, seed), range(count), strict=False)]


def _tiling(size_hw: SizeHW, count: int, rng: np.random.Generator, seed: int) -> list[NDArray[np.bool_]]:
    """Regions that cover the image once: a fifth are stuff, objects lie before it, the small ones in front."""
    stuff = max(1, count // 5)
    fields = torch.from_numpy(rng.normal(size=(1, stuff, 4, 6)))
    owner = interpolate(fields, size=size_hw, mode="bicubic")[0].argmax(0).numpy()
    for number, mask in enumerate(sorted(_objects(size_hw, count - stuff, seed), key=np.sum, reverse=True)):
        owner[mask] = stuff + number
    return [owner == number for number in range(count)]


def _logits(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float64]:
    """By signed distance to the edge, in coarse pixels."""
    if not mask.any():
        return np.full(mask.shape, -12.0)
    distance = distance_transform_edt(mask) - distance_transform_edt(~mask)
    return np.clip((distance - 0.5 * np.sign(distance)) * rng.uniform(2, 5), -12, 9)


def _noise(shape: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Slow waves and a little grain."""
    waves = torch.from_numpy(rng.normal(0, 1, (1, shape[0], 8, 12)).astype(np.float32))
    grain = 0.15 * rng.standard_normal(shape, dtype=np.float32)
    return interpolate(waves, size=shape[1:], mode="bicubic")[0].numpy() + grain


def _class_logits(queries: int, kept: int, classes: int, stuff_from: int, rng: np.random.Generator) -> Tensor:
    """Let kept queries know their class, a fifth of them stuff where there is any, and the others say no object."""
    logits = rng.normal(0, 1.0, (queries, classes + 1))
    logits[:, -1] = 8.0
    for query in range(kept):
        is_stuff = query < max(1, kept // 5) and stuff_from < classes
        label = rng.integers(stuff_from, classes) if is_stuff else rng.integers(min(stuff_from, classes))
        logits[query, label], logits[query, -1] = rng.uniform(9, 12), 2.0
    return torch.from_numpy(logits.astype(np.float32))
