"""Sizes from image to canvas and back, without a pixel: the image processor's settings and ours.

(H, W)    the full image, and the output
(hc, wc)  the content: the resized image, at the canvas' top left
(Hc, Wc)  the canvas the model sees: the content and its padding
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from m2f_batch.config import AspectSize, ExactSize
from m2f_batch.errors import ImageError, UsageError

SizeHW = tuple[int, int]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# the processors whose arithmetic this is; the names of older checkpoints are taken for today's
PROCESSORS = frozenset(
    f"{family}{kind}"
    for family in ("Mask2Former", "MaskFormer")
    for kind in ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")
)


@dataclass(frozen=True)
class PreprocessPlan:
    """All that turns an image into pixel values.

    ``size`` is None without resizing. ``divisor`` rounds the content up (``round_content``: the processor's way, the
    image is stretched) or the canvas (ours: zeros are added after normalisation). ``resample`` is Pillow's number.
    """

    size: AspectSize | ExactSize | None
    divisor: int
    round_content: bool
    resample: int
    rescale_factor: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    pad_size: SizeHW | None
    lone_edge: bool = False

    def content_size(self, output_hw: SizeHW) -> SizeHW:
        """(hc, wc) for an image of (H, W) pixels. Raises ImageError when nothing would be left."""
        height, width = output_hw
        match self.size:
            case ExactSize():
                height, width = self.size.height, self.size.width
            case AspectSize():
                longest = None if self.lone_edge else self.size.longest_edge
                height, width = size_with_aspect_ratio(output_hw, self.size.shortest_edge, longest)
        if self.round_content and self.size is not None:
            height, width = _round_up(height, self.divisor), _round_up(width, self.divisor)
        if height < 1 or width < 1:
            raise ImageError(
                "preprocess",
                "TooThin",
                f"{output_hw[1]}x{output_hw[0]} pixels would be resized to {width}x{height}",
                size_hw=output_hw,
            )
        return height, width

    def canvas_size(self, output_hw: SizeHW) -> SizeHW:
        """(Hc, Wc) for an image of (H, W) pixels. Raises ImageError when the content is larger than ``pad_size``."""
        height, width = self.content_size(output_hw)
        if self.pad_size is not None:
            if height > self.pad_size[0] or width > self.pad_size[1]:
                raise ImageError(
                    "preprocess",
                    "LargerThanPadSize",
                    f"resized to {width}x{height}, larger than the processor's pad_size "
                    f"{self.pad_size[1]}x{self.pad_size[0]}",
                    size_hw=output_hw,
                )
            return self.pad_size
        if self.round_content or isinstance(self.size, ExactSize):
            return height, width
        return _round_up(height, self.divisor), _round_up(width, self.divisor)

    def describe(self) -> str:
        """One phrase for the plan printed before a run."""
        match self.size:
            case ExactSize():
                text = f"{self.size.height}x{self.size.width} (height x width), aspect ratio not kept"
            case AspectSize():
                edges = f"{self.size.shortest_edge} / {self.size.longest_edge}"
                text = f"shortest / longest edge {self.size.shortest_edge if self.lone_edge else edges}"
            case None:
                text = "as they are"
        if self.round_content and self.divisor > 1 and self.size is not None:
            text += f", stretched to multiples of {self.divisor}"
        elif isinstance(self.size, AspectSize):
            text += f", zeros up to multiples of {self.divisor}"
        return text if self.pad_size is None else f"{text}, padded to {self.pad_size[0]}x{self.pad_size[1]}"


def plan_from_processor(processor: Mapping[str, Any]) -> PreprocessPlan:
    """The checkpoint's own settings, from its preprocessor_config.json, in every form the hub has.

    Missing keys take the defaults of ``Mask2FormerImageProcessor``. Raises UsageError for another processor or a size
    that means nothing.
    """
    kind = processor.get("image_processor_type") or processor.get("feature_extractor_type") or ""
    if kind and kind not in PROCESSORS:
        raise UsageError(f"model.uri: image processor {kind!r} is not known; allowed: {', '.join(sorted(PROCESSORS))}")
    size, lone_edge = _size_of(processor)
    normalise = processor.get("do_normalize", True)
    pad = processor.get("pad_size")
    return PreprocessPlan(
        size=size if processor.get("do_resize", True) else None,
        divisor=int(processor.get("size_divisor", 32) or 0),
        round_content=True,
        resample=int(processor.get("resample", 2)),
        rescale_factor=float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else None,
        mean=_channels(processor.get("image_mean", IMAGENET_MEAN)) if normalise else None,
        std=_channels(processor.get("image_std", IMAGENET_STD)) if normalise else None,
        pad_size=(int(pad["height"]), int(pad["width"])) if pad else None,
        lone_edge=lone_edge,
    )


def with_size(plan: PreprocessPlan, size: AspectSize | ExactSize) -> PreprocessPlan:
    """The plan with a size of ours: the aspect ratio kept and zeros added, or exactly that size."""
    return replace(plan, size=size, round_content=False, pad_size=None, lone_edge=False)


def size_with_aspect_ratio(image_hw: SizeHW, shortest: int, longest: int | None) -> SizeHW:
    """Height and width with the shortest edge at ``shortest``, unless the longest would exceed ``longest``.

    The arithmetic of ``transformers.image_transforms.get_size_with_aspect_ratio``, rounding included.

    >>> size_with_aspect_ratio((480, 640), 800, 1333)
    (800, 1066)
    """
    height, width = image_hw
    limited: float | None = None
    if longest is not None and max(image_hw) / min(image_hw) * shortest > longest:
        limited = longest * float(min(image_hw)) / float(max(image_hw))
        shortest = round(limited)
    if (height <= width and height == shortest) or (width <= height and width == shortest):
        return height, width
    exact = shortest if limited is None else limited
    if width < height:
        return int(exact * height / width), shortest
    return shortest, int(exact * width / height)


def _size_of(processor: Mapping[str, Any]) -> tuple[AspectSize | ExactSize, bool]:
    """The size, and whether only the shortest edge binds."""
    size = processor.get("size", {"shortest_edge": 800, "longest_edge": 1333})
    longest = processor.get("max_size", processor.get("_max_size"))
    if isinstance(size, int):
        size = {"shortest_edge": size}
    if "height" in size and "width" in size:
        return ExactSize(height=size["height"], width=size["width"]), False
    if "shortest_edge" in size:
        bound = size.get("longest_edge") or longest
        return AspectSize(shortest_edge=size["shortest_edge"], longest_edge=bound or 2**31 - 1), not bound
    raise UsageError(
        f"model.uri: the image processor's size {size!r} is not known; "
        "allowed: height and width, or shortest_edge and longest_edge (or set preprocess.size)"
    )


def _channels(value: Any) -> tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, (list, tuple)) else (float(value),) * 3


def _round_up(length: int, divisor: int) -> int:
    return math.ceil(length / divisor) * divisor if divisor > 0 else length
