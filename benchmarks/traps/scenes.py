"""Logits of drawn scenes as a good model would give them, for what is done with logits afterwards."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, pad

from m2f_batch.demo.scenes import CATEGORIES, STUFF_IDS, Scene, draw_scene
from m2f_batch.models.predictions import QueryLogits
from m2f_batch.models.preprocess_plan import SizeHW
from m2f_batch.records import Segment
from m2f_batch.vision.masks.frame import Frame
from tests.support.reference import Region

STRIDE, SURE, EDGE = 4, 9.0, 6.0
NONE = len(CATEGORIES)
STUFF = set(STUFF_IDS)
SEED = 3_000_021  # of a scene of 192x256 with five things


@dataclass(frozen=True)
class Asked:
    """A scene with the logits of its queries [Q, C + 1] and [Q, h, w], and the sizes that they are made for."""

    scene: Scene
    logits: QueryLogits
    frame: Frame

    @property
    def outputs(self) -> Any:
        """What transformers' post-processing takes: a batch of one."""
        classes, masks = (each[None].clone() for each in self.logits.tensors)
        return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks, patch_offsets=None)

    @property
    def sizes(self) -> dict[str, Any]:
        """The keyword arguments of our functions and of the oracle's."""
        return self.frame._asdict()

    @property
    def truth(self) -> dict[str, Any]:
        """The keyword arguments of the oracle's functions that take logits."""
        return {"class_logits": self.logits.class_logits, "mask_logits": self.logits.mask_logits, **self.sizes}


def mask_logits(masks: Tensor, size: SizeHW) -> Tensor:
    """Logits [N, h, w] of masks [N, H, W]: sure inside and outside, and less so about the edge."""
    return (interpolate(masks[None].float(), size=size, mode="bilinear", antialias=True)[0] * 2 - 1) * EDGE


def class_logits(labels: list[int], classes: int = NONE) -> Tensor:
    """Logits [Q, C + 1] of queries that are sure of their class."""
    found = torch.zeros(len(labels), classes + 1)
    found[range(len(labels)), labels] = SURE
    return found


def asked(seed: int, parts: list[tuple[int, Tensor]] | None = None, canvas: SizeHW | None = None) -> Asked:
    """A scene of which each segment is a query, or each of ``parts``, a class with its mask [H, W].

    The content is as large as the image, at the top left of a ``canvas``.
    """
    scene = draw_scene(seed)
    parts = parts or segments_of_scene(scene)
    size = (scene.image.shape[0], scene.image.shape[1])
    canvas = canvas or size
    masks = torch.stack([mask for _, mask in parts])
    logits = mask_logits(masks, (size[0] // STRIDE, size[1] // STRIDE))
    below, right = ((canvas[axis] - size[axis]) // STRIDE for axis in (0, 1))
    logits = pad(logits, (0, right, 0, below), value=-EDGE)
    return Asked(scene, QueryLogits(class_logits([label for label, _ in parts]), logits), Frame(canvas, size, size))


def segments_of_scene(scene: Scene) -> list[tuple[int, Tensor]]:
    """Each segment as its class and its mask [H, W]: sky, grass, then the things from the back to the front."""
    return list(zip(scene.category_ids, torch.from_numpy(scene.masks()), strict=True))


def halves(part: tuple[int, Tensor]) -> tuple[tuple[int, Tensor], tuple[int, Tensor]]:
    """A segment of stuff as two queries, which find its left and its right."""
    label, mask = part
    middle = mask.shape[1] // 2
    columns = torch.arange(mask.shape[1])
    return (label, mask & (columns < middle)), (label, mask & (columns >= middle))


def id_map(segments: list[Segment], size: SizeHW) -> NDArray[np.int64]:
    """Numbers of segments by pixel, 0 where there is none, the smallest in front."""
    found = np.zeros(size, np.int64)
    for segment in sorted(segments, key=lambda segment: -segment.area):
        found[segment.mask()] = segment.id
    return found


def is_same(segments: list[Segment], regions: list[Region]) -> bool:
    """Return whether our segments are those of the plain definition."""
    return len(segments) == len(regions) and all(
        segment.category_id == region.category_id
        and abs(segment.score - region.score) <= 1e-5
        and not ((segment.mask() != region.mask) & ~region.doubtful).any()
        for segment, region in zip(segments, regions, strict=True)
    )


def boxes() -> tuple[Tensor, Tensor]:
    """Two boxes, of which one covers a fourth of the other."""
    first, second = torch.zeros(2, *draw_scene(SEED).owner.shape, dtype=torch.bool)
    first[30:110, 40:160], second[50:140, 120:250] = True, True
    return first, second


def overlapping() -> Asked:
    """Two boxes in a model that sees both whole."""
    first, second = boxes()
    return asked(SEED, [(1, first), (2, second)])


def two_classes() -> Asked:
    """A query that is nearly as sure of a second class, beside one that is not."""
    first, second = boxes()
    nobody = torch.zeros_like(first)
    one = asked(SEED, [(1, first), (2, second), *[(NONE, nobody)] * 4])  # as many pairs are kept as there are queries
    one.logits.class_logits[0, 2] = 8.5
    return one
