"""Makes segments of the logits of one image by the paper's own inference.

The paper is Cheng et al. 2022, section 4.1, with its reference code. Which query or class wins a pixel is decided in
``masks/panoptic`` and ``masks/semantic``.

Shapes: Q queries, C classes, (h, w) mask logits, (Hc, Wc) canvas, (hc, wc) content at its top left, (H, W) output.
``class_logits`` are [Q, C + 1], the last class is "no object"; ``mask_logits`` are [Q, h, w]; float32, float16 or
bfloat16 (computed in float32) or float64, on any device. Nothing grows with the image times queries or classes.
Ties go to the lowest query, then the lowest class. NaN and infinite logits raise ImageError.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m2f_batch.config.segment import Task
from m2f_batch.errors import ImageError
from m2f_batch.models.predictions import PixelLogits, Prediction, QueryLogits, SigmoidQueryLogits
from m2f_batch.models.preprocess_plan import SizeHW
from m2f_batch.records import Segment
from m2f_batch.vision.cuts.view import View
from m2f_batch.vision.masks.frame import Frame, Upsampling, one_step
from m2f_batch.vision.masks.instance import areas_of, codes_of_masks, shapes_of
from m2f_batch.vision.masks.label_tiles import ClassLabels, codes_of
from m2f_batch.vision.masks.panoptic import QueryLabels, panoptic_labels
from m2f_batch.vision.masks.pixel_classes import pixel_labels
from m2f_batch.vision.masks.rle import MaskCode
from m2f_batch.vision.masks.semantic import output_semantic_labels, semantic_labels
from m2f_batch.vision.masks.windows import WindowLabels, WindowLogits

DEVICES = ("cpu", "cuda")  # logits on another come to the CPU
NO_STUFF: frozenset[int] = frozenset()


def segments_of(prediction: Prediction, task: Task, frame: Frame, settings: Mapping[str, object]) -> list[Segment]:
    """Segments of one image from its prediction. ``settings`` are the keyword arguments of the task's function."""
    function = POSTPROCESS[type(prediction), task]
    return function(*prediction.tensors, canvas=frame.canvas, content=frame.content, output=frame.output, **settings)


class _Found(NamedTuple):
    score: float
    category_id: int
    code: MaskCode


@torch.inference_mode()
def instance_segments(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    canvas: SizeHW,
    content: SizeHW,
    output: SizeHW,
    score_threshold: float = 0.5,
    mask_threshold: float = 0.5,
    top_k: int = 100,
    stuff_ids: frozenset[int] = NO_STUFF,
) -> list[Segment]:
    """The ``top_k`` best (query, class) pairs as possibly overlapping masks, best score first."""
    class_logits, mask_logits = _checked(class_logits, mask_logits)
    frame = Frame(canvas, content, output)
    scores, pairs = _ranked(class_logits.softmax(-1)[:, :-1].flatten())
    classes = class_logits.shape[1] - 1
    wanted = [
        (score, pair // classes, pair % classes)
        for score, pair in zip(scores[:top_k].tolist(), pairs[:top_k].tolist(), strict=True)
        # mean sigmoid <= 1, so a class score under the threshold cannot end above it
        if score >= score_threshold and pair % classes not in stuff_ids
    ]
    queries = sorted({query for _, query, _ in wanted})
    shapes = dict(zip(queries, shapes_of(mask_logits[queries], frame, _logit(mask_threshold)), strict=True))
    found = []
    for class_score, query, category_id in wanted:
        code, mean = shapes[query]
        if code.area > 0 and class_score * mean >= score_threshold:
            found.append((query, _Found(class_score * mean, category_id, code)))
    found.sort(key=lambda item: (-item[1].score, item[0], item[1].category_id))
    return _segments([item for _, item in found], frame)


@torch.inference_mode()
def sigmoid_instance_segments(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    canvas: SizeHW,
    content: SizeHW,
    output: SizeHW,
    score_threshold: float = 0.5,
    mask_threshold: float = 0.5,
    top_k: int = 300,
    stuff_ids: frozenset[int] = NO_STUFF,
    keep_empty: bool = True,
) -> list[Segment]:
    """RF-DETR's rule: the ``top_k`` best (query, class) pairs above the score threshold, best score first.

    ``class_logits`` are [Q, C], without "no object". A score is the sigmoid of its class logit alone. The whole canvas
    is content, and mask logits go to the output in one step. Masks may overlap, and empty ones are kept, as in the
    original, unless ``keep_empty`` is false. Source: ``PostProcess`` and ``predict`` of rfdetr 1.11.2.
    """
    class_logits, mask_logits = _checked(class_logits, mask_logits)
    frame = one_step(mask_logits, output)
    classes = class_logits.shape[1]
    scores, pairs = _ranked(class_logits.sigmoid().flatten())
    wanted = [
        (score, *divmod(pair, classes))
        for score, pair in zip(scores[:top_k].tolist(), pairs[:top_k].tolist(), strict=True)
        if score > score_threshold and pair % classes not in stuff_ids
    ]
    queries = sorted({query for _, query, _ in wanted})
    codes = dict(zip(queries, codes_of_masks(mask_logits[queries], frame, _logit(mask_threshold)), strict=True))
    found = [_Found(score, category_id, codes[query]) for score, query, category_id in wanted]
    return _segments([item for item in found if keep_empty or item.code.area], frame)


@torch.inference_mode()
def panoptic_segments(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    canvas: SizeHW,
    content: SizeHW,
    output: SizeHW,
    score_threshold: float = 0.8,
    mask_threshold: float = 0.5,
    overlap_threshold: float = 0.8,
    stuff_ids: frozenset[int] = NO_STUFF,
    keep_unsure: bool = False,
) -> list[Segment]:
    """Segments that do not overlap, segments of one stuff class merged, best score first.

    A query's segment are the pixels that it owns with p >= ``mask_threshold``. With ``keep_unsure`` they are all pixels
    that it owns, as in MaskFormer (mask_former_model.py, ``panoptic_inference``).
    """
    class_logits, mask_logits = _checked(class_logits, mask_logits)
    frame = Frame(canvas, content, output)
    scores, labels = class_logits.softmax(-1).max(-1)
    keep = (labels != class_logits.shape[1] - 1) & (scores > score_threshold)
    kept = keep.nonzero().flatten().tolist()
    if not kept:
        return []
    owned = panoptic_labels(mask_logits[kept], scores[kept], frame, 0.0 if keep_unsure else mask_threshold)
    # p >= threshold: the level itself is inside
    just_below = float(np.nextafter(np.float32(_logit(mask_threshold)), np.float32(-np.inf)))
    areas = areas_of(mask_logits[kept], frame, just_below)
    parts = _parts(kept, labels.tolist(), owned, areas, overlap_threshold, stuff_ids)
    segment_of = np.full(len(kept) + 1, -1)  # the last is nobody's
    for number, members in enumerate(parts):
        segment_of[members] = number
    codes = dict(codes_of(owned.starts, segment_of[owned.labels], output))
    found = [
        _Found(max(float(scores[kept[i]]) for i in members), int(labels[kept[members[0]]]), codes[number])
        for number, members in enumerate(parts)
    ]
    # a stable sort: equal scores stay in the order of their first queries
    return _segments(sorted(found, key=lambda item: -item.score), frame)


def _parts(
    kept: list[int],
    labels: list[int],
    owned: QueryLabels,
    areas: NDArray[np.int64],
    overlap_threshold: float,
    stuff_ids: frozenset[int],
) -> list[list[int]]:
    """The members of each segment, as places in ``kept``: one query, or all of one stuff class."""
    parts: dict[tuple[int, int], list[int]] = {}
    visible = set(owned.labels.tolist())
    for i, query in enumerate(kept):
        if i not in visible or areas[i] == 0 or owned.owned[i] / areas[i] < overlap_threshold:
            continue
        label = labels[query]
        parts.setdefault((label, -1 if label in stuff_ids else query), []).append(i)
    return list(parts.values())


@torch.inference_mode()
def semantic_segments(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    canvas: SizeHW,
    content: SizeHW,
    output: SizeHW,
    masks_first: bool = False,
) -> list[Segment]:
    """One segment per class that wins a pixel, largest area first.

    Classes are summed over queries on the canvas, and the sums grow to the output. With ``masks_first`` mask logits
    grow to the output, and classes are summed there, as in OneFormer and in panoptic MaskFormer models.
    """
    class_logits, mask_logits = _checked(class_logits, mask_logits)
    frame = Frame(canvas, content, output)
    labels = output_semantic_labels if masks_first else semantic_labels
    return _by_area(labels(class_logits.softmax(-1)[:, :-1], mask_logits, frame), frame)


@torch.inference_mode()
def pixel_segments(
    logits: Tensor, *, canvas: SizeHW, content: SizeHW, output: SizeHW, upsampling: Upsampling = "bilinear"
) -> list[Segment]:
    """One segment per class that wins a pixel of ``logits`` [C, h, w], largest area first.

    Its score is the mean over its pixels of the class' softmax. ``upsampling`` is the family's.
    """
    (logits,) = _checked(logits)
    frame = Frame(canvas, content, output)
    return _by_area(pixel_labels(logits, frame, upsampling), frame)


class WindowSegments:
    """Joins the windows of one image: one segment per class that wins a pixel of their mean, largest area first."""

    def __init__(self, views: Sequence[View], scaled_hw: SizeHW, output_hw: SizeHW) -> None:
        self._labels = WindowLabels(views, scaled_hw, output_hw)
        self._frame = Frame(scaled_hw, scaled_hw, output_hw)

    def add(self, view: View, part: WindowLogits) -> None:
        """Take the next window."""
        self._labels.add(view, part)

    def joined(self) -> list[Segment]:
        """The segments, once the last window is there."""
        return _by_area(self._labels.joined(), self._frame)


def window_logits(prediction: Prediction) -> WindowLogits:
    """Take what ``WindowSegments`` joins of one window's prediction. Raises ImageError for NaN and infinity."""
    match prediction:
        case PixelLogits():
            return WindowLogits(*_checked(prediction.logits))
        case QueryLogits():
            class_logits, mask_logits = _checked(prediction.class_logits, prediction.mask_logits)
            return WindowLogits(mask_logits, class_logits.softmax(-1)[:, :-1].T.contiguous())
        case SigmoidQueryLogits():
            raise TypeError("no semantic task has such a prediction")


def _by_area(labels: ClassLabels, frame: Frame) -> list[Segment]:
    found = [
        _Found(float(labels.shares[category_id]) / code.area, category_id, code)
        for category_id, code in codes_of(labels.starts, labels.labels, frame.output)
    ]
    return _segments(sorted(found, key=lambda item: -item.code.area), frame)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _ranked(scores: Tensor) -> tuple[Tensor, Tensor]:
    """All scores, highest first, and equal ones in the order of their index (``topk`` leaves that open)."""
    return torch.sort(scores, descending=True, stable=True)


def _checked(*logits: Tensor) -> tuple[Tensor, ...]:
    """Logits where they are computed with, in float32 or float64. Raises ImageError for NaN and infinite ones."""
    # an infinity becomes NaN in the very next step: softmax, or bilinear weights of 0
    if not all(_all_finite(each) for each in logits):
        raise ImageError("postprocess", "NanLogits", "the model gave NaN or infinite logits for this image")
    if logits[0].device.type not in DEVICES:
        logits = tuple(each.cpu() for each in logits)
    dtype = torch.float64 if logits[0].dtype == torch.float64 else torch.float32
    return tuple(each.to(dtype) for each in logits)


def _all_finite(values: Tensor) -> bool:
    """Return whether all are finite. A finite sum proves it in one pass. Each is looked at only where it overflows."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _segments(found: list[_Found], frame: Frame) -> list[Segment]:
    return [
        Segment(
            number, item.category_id, "", item.score, item.code.area, item.code.bbox, item.code.counts, frame.output
        )
        for number, item in enumerate(found, start=1)
    ]


# a kind of prediction and a task: its function takes the tensors of one image's prediction, the sizes and the settings
POSTPROCESS: dict[tuple[type[Prediction], Task], Callable[..., list[Segment]]] = {
    (QueryLogits, "instance"): instance_segments,
    (QueryLogits, "panoptic"): panoptic_segments,
    (QueryLogits, "semantic"): semantic_segments,
    (SigmoidQueryLogits, "instance"): sigmoid_instance_segments,
    (PixelLogits, "semantic"): pixel_segments,
}
