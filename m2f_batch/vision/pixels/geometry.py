"""Sizes from image to canvas and back, without a pixel: the image processor's settings and ours.

(H, W)    the full image, and the output
(hc, wc)  the content: the resized image, at the canvas' top left
(Hc, Wc)  the canvas the model sees: the content and its padding
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from m2f_batch.config.segment import AspectSize, ExactSize, Normalization, Pixels, Section
from m2f_batch.errors import ImageError, UsageError

SizeHW = tuple[int, int]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOST, LEAST_SPREAD = 20.0, 0.1  # of what models are trained on
LONGEST_EDGE = 1333  # the default of version 4
DIVISOR = 32  # the default of every version, also where null stands (4.57's fast processors; the others fail on it)
SIZES = "a number of pixels, {shortest_edge, longest_edge}, {shortest_edge} or {height, width}"
# the processors whose arithmetic this is; the names of older checkpoints are taken for today's
PROCESSORS = frozenset(
    f"{family}{kind}"
    for family in ("Mask2Former", "MaskFormer")
    for kind in ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")
)


Channels = tuple[float, float, float]


class LoneEdge(Section):
    """A size with the shortest edge alone, which older checkpoints have."""

    shortest_edge: Pixels


def _not_zero(std: Channels | float) -> Channels | float:
    if not all(_channels(std)):
        raise ValueError("must not be 0")
    return std


@dataclass(frozen=True)
class PreprocessPlan:
    """All that turns an image into pixel values.

    ``size`` is None without resizing. ``divisor`` rounds the content up (``round_content``: the processor's way, the
    image is stretched) or the canvas (ours: zeros are added after normalisation). ``resample`` is Pillow's number.
    ``as_detectron2``: edges are rounded as the paper's own code does, not as transformers does.
    """

    size: AspectSize | ExactSize | None
    divisor: int
    round_content: bool
    resample: int
    rescale_factor: float | None
    mean: Channels | None
    std: Channels | None
    pad_size: SizeHW | None
    lone_edge: bool = False
    as_detectron2: bool = False

    def content_size(self, output_hw: SizeHW) -> SizeHW:
        """(hc, wc) for an image of (H, W) pixels. Raises ImageError when nothing would be left."""
        height, width = output_hw
        match self.size:
            case ExactSize():
                height, width = self.size.height, self.size.width
            case AspectSize() if self.as_detectron2:
                height, width = size_as_detectron2(output_hw, self.size.shortest_edge, self.size.longest_edge)
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
                text += ", rounded as detectron2 does" if self.as_detectron2 else ""
            case None:
                text = "as they are"
        if self.round_content and self.divisor > 1 and self.size is not None:
            text += f", stretched to multiples of {self.divisor}"
        elif isinstance(self.size, AspectSize) and self.divisor > 1:
            text += f", zeros up to multiples of {self.divisor}"
        return text if self.pad_size is None else f"{text}, padded to {self.pad_size[0]}x{self.pad_size[1]}"

    def doubt(self) -> str | None:
        """Why the values that reach the model can hardly be those it was trained on; None if they can.

        What models are trained on lies within a few units of 0, and black and white are 1 to 5 apart.
        """
        black, white = self._values(0.0), self._values(255.0)
        low, high = min(black), max(white)
        if max(-low, high) <= MOST and min(b - a for a, b in zip(black, white, strict=True)) >= LEAST_SPREAD:
            return None
        done = {
            (False, False): "neither rescales nor normalizes",
            (True, False): "does not normalize",
            (False, True): "does not rescale",
            (True, True): "rescales and normalizes oddly",
        }[self.rescale_factor is not None, self.mean is not None]
        return (
            f"the image processor of the checkpoint {done}: the model is given values from {low:.4g} to {high:.4g}; if "
            "it was trained on normalized pixels, its labels are worth nothing: give what it was trained with, "
            f"{{mean: {list(IMAGENET_MEAN)}, std: {list(IMAGENET_STD)}}} as a rule"
        )

    def _values(self, pixel: float) -> Channels:
        """What a gray pixel becomes."""
        value = pixel if self.rescale_factor is None else pixel * self.rescale_factor
        if self.mean is None or self.std is None:
            return (value, value, value)
        red, green, blue = ((value - mean) / std for mean, std in zip(self.mean, self.std, strict=True))
        return (red, green, blue)


class ProcessorConfig(BaseModel):
    """The settings of a preprocessor_config.json that inference uses, in every form the hub has.

    Missing keys take the defaults of ``Mask2FormerImageProcessor``; keys for training are ignored.
    """

    image_processor_type: str | None = None
    feature_extractor_type: str | None = None
    do_resize: bool = True
    size: Pixels | ExactSize | AspectSize | LoneEdge | None = None
    max_size: Pixels | None = None
    noted_max_size: Pixels | None = Field(None, validation_alias="_max_size")
    size_divisor: Annotated[int, Field(ge=0, le=4096)] | None = None
    resample: Annotated[int, Field(ge=0, le=3)] = 2
    do_rescale: bool = True
    rescale_factor: Annotated[float, Field(gt=0)] = 1 / 255
    do_normalize: bool = True
    image_mean: Channels | float = IMAGENET_MEAN
    image_std: Annotated[Channels | float, AfterValidator(_not_zero)] = IMAGENET_STD
    pad_size: ExactSize | None = None


def plan_from_processor(processor: Mapping[str, Any]) -> PreprocessPlan:
    """The checkpoint's own settings, from its preprocessor_config.json.

    Raises UsageError for a processor of another kind, or with settings that mean nothing.
    """
    try:
        settings = ProcessorConfig.model_validate(processor)
    except ValidationError as error:
        fault = error.errors()[0]
        key = str(fault["loc"][0]) if fault["loc"] else ""
        value = str(processor.get(key, fault["input"]))[:100]
        told = SIZES if key == "size" else fault["msg"]
        raise UsageError(
            f"model.uri: the image processor's {key} {value!r} is not allowed ({told}); "
            "mend its preprocessor_config.json"
        ) from None
    kind = settings.image_processor_type or settings.feature_extractor_type or ""
    if kind and kind not in PROCESSORS:
        raise UsageError(f"model.uri: image processor {kind!r} is not known; allowed: {', '.join(sorted(PROCESSORS))}")
    size, lone_edge = _size_of(settings)
    pad = settings.pad_size
    return PreprocessPlan(
        size=size if settings.do_resize else None,
        divisor=DIVISOR if settings.size_divisor is None else settings.size_divisor,
        round_content=True,
        resample=settings.resample,
        rescale_factor=settings.rescale_factor if settings.do_rescale else None,
        mean=_channels(settings.image_mean) if settings.do_normalize else None,
        std=_channels(settings.image_std) if settings.do_normalize else None,
        pad_size=(pad.height, pad.width) if pad else None,
        lone_edge=lone_edge,
    )


def with_size(plan: PreprocessPlan, size: AspectSize | ExactSize, *, as_detectron2: bool = False) -> PreprocessPlan:
    """The plan with a size of ours: the aspect ratio kept and zeros added, or exactly that size."""
    return replace(plan, size=size, round_content=False, pad_size=None, lone_edge=False, as_detectron2=as_detectron2)


def with_normalization(plan: PreprocessPlan, given: Normalization) -> PreprocessPlan:
    """The plan with a mean and deviation of ours, of pixels from 0 to 1."""
    return replace(plan, rescale_factor=1 / 255, mean=given.mean, std=given.std)


def size_as_detectron2(image_hw: SizeHW, shortest: int, longest: int) -> SizeHW:
    """Height and width with the shortest edge at ``shortest``, unless the longest would exceed ``longest``.

    The arithmetic of detectron2's ``ResizeShortestEdge.get_output_shape``, rounding included.

    >>> size_as_detectron2((480, 640), 800, 1333)
    (800, 1067)
    """
    height, width = image_hw
    scale = shortest / min(height, width)
    tall, wide = (float(shortest), scale * width) if height < width else (scale * height, float(shortest))
    if max(tall, wide) > longest:
        scale = longest / max(tall, wide)
        tall, wide = tall * scale, wide * scale
    return int(tall + 0.5), int(wide + 0.5)


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


def _size_of(settings: ProcessorConfig) -> tuple[AspectSize | ExactSize, bool]:
    """The size, and whether only the shortest edge binds.

    Of a number, the longest edge is ``max_size``, by default 1333, as in transformers 4, where ``_max_size`` was a note
    of what ``size`` had been made with.
    """
    size = settings.size
    if isinstance(size, int):
        return AspectSize(shortest_edge=size, longest_edge=settings.max_size or LONGEST_EDGE), False
    if isinstance(size, LoneEdge):
        longest = settings.noted_max_size or settings.max_size
        return AspectSize(shortest_edge=size.shortest_edge, longest_edge=longest or 2**31 - 1), longest is None
    return size or AspectSize(shortest_edge=800, longest_edge=settings.max_size or LONGEST_EDGE), False


def _channels(value: Channels | float) -> Channels:
    return value if isinstance(value, tuple) else (value, value, value)


def _round_up(length: int, divisor: int) -> int:
    return math.ceil(length / divisor) * divisor if divisor > 0 else length
