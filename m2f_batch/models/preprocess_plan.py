"""A PreprocessPlan says how an image becomes pixel values, and computes the sizes on the way without a pixel.

(H, W)    the full image, and the output
(hc, wc)  the content: the resized image, at the canvas' top left
(Hc, Wc)  the canvas the model sees: the content and its padding
"""

import math
from dataclasses import dataclass, replace

from m2f_batch.config.segment import AspectSize, ExactSize, Normalization
from m2f_batch.errors import ImageError

SizeHW = tuple[int, int]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOST, LEAST_SPREAD = 20.0, 0.1  # of what models are trained on

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class PreprocessPlan:
    """A plan holds all that turns an image into pixel values.

    ``size`` is None without resizing. ``divisor`` rounds the content up (``round_content``: the processor's way, the
    image is stretched) or the canvas (ours: zeros are added after normalization). ``resample`` is Pillow's number.
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
        """The reason to doubt that the model was trained on such values, or None.

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
        """The values of a gray pixel."""
        value = pixel if self.rescale_factor is None else pixel * self.rescale_factor
        if self.mean is None or self.std is None:
            return (value, value, value)
        red, green, blue = ((value - mean) / std for mean, std in zip(self.mean, self.std, strict=True))
        return (red, green, blue)


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


def _round_up(length: int, divisor: int) -> int:
    return math.ceil(length / divisor) * divisor if divisor > 0 else length
