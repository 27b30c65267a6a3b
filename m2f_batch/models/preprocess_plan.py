"""A PreprocessPlan says how an image becomes pixel values, and computes the sizes on the way without a pixel.

(H, W)    the full image, and the output
(hc, wc)  the content: the resized image, at the canvas' top left
(Hc, Wc)  the canvas the model sees: the content and its padding
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from m2f_batch.config.segment import AspectSize, ExactSize, Normalization
from m2f_batch.errors import ImageError

SizeHW = tuple[int, int]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOST, LEAST_SPREAD = 20.0, 0.1  # of what models are trained on

Channels = tuple[float, float, float]
# whose arithmetic makes edges of a shortest and a longest one: transformers, detectron2, mmcv, or Python's round
Rounding = Literal["transformers", "detectron2", "mmcv", "round"]
ROUNDED = {
    "transformers": "",
    "detectron2": ", rounded as detectron2 does",
    "mmcv": ", rounded as mmcv does",
    "round": ", rounded to the nearest",
}
Resizing = Literal["pillow", "torch", "opencv"]
RESIZED = {"pillow": "", "torch": ", resized without antialias", "opencv": ", resized as OpenCV does"}
# fields that fingerprints of older releases do not have: they enter one only where they are not the default
LATER = ("rounding", "resizing", "stretch_to", "pads_black", "is_bgr", "least_edge", "most_edge")


@dataclass(frozen=True)
class PreprocessPlan:
    """A plan holds all that turns an image into pixel values.

    ``size`` is None without resizing. ``divisor`` rounds the content up (``round_content``: the processor's way, the
    image is stretched) or the canvas (ours: zeros are added after normalization). ``resample`` is Pillow's number.

    - ``resizing``: whose filter it is. Pillow's averages what it shrinks ("antialias"), in transformers too. Those of
      torch without antialias and of OpenCV, which is always bilinear here, do not.
    - ``stretch_to``: the resized image is resized again, up to multiples of it (mmsegmentation's ``ResizeToMultiple``).
    - ``pads_black``: padding is added before normalization, so it has the values of black.
    - ``is_bgr``: the model sees blue first. ``mean`` and ``std`` are in the model's order.
    - ``least_edge``: an image of which a resized edge is shorter cannot be computed (an ImageError), nor one with
      an edge longer than ``most_edge``.
    - ``note``: what a user should know of the plan. It decides nothing.
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
    rounding: Rounding = "transformers"
    resizing: Resizing = "pillow"
    stretch_to: int = 1
    pads_black: bool = False
    is_bgr: bool = False
    least_edge: int = 1
    most_edge: int | None = None
    note: str = ""

    def content_size(self, output_hw: SizeHW) -> SizeHW:
        """Return (hc, wc) for an image of (H, W) pixels. Raises ImageError when nothing would be left."""
        return self.sizes(output_hw)[-1]

    def sizes(self, output_hw: SizeHW) -> tuple[SizeHW, ...]:
        """List the sizes that an image of (H, W) pixels is resized to in turn. The last one is the content's.

        Raises ImageError when nothing would be left.
        """
        height, width = output_hw
        match self.size:
            case ExactSize():
                height, width = self.size.height, self.size.width
            case AspectSize():
                height, width = self._edges(output_hw, self.size)
        if self.round_content and self.size is not None:
            height, width = _round_up(height, self.divisor), _round_up(width, self.divisor)
        first, last = (height, width), (_round_up(height, self.stretch_to), _round_up(width, self.stretch_to))
        is_long = self.most_edge is not None and max(last) > self.most_edge
        if min(first) < 1 or min(last) < self.least_edge or is_long:
            enough = f", and the model needs {self.least_edge} pixels" if self.least_edge > 1 else ""
            enough = f", and the longest edge that is computed is {self.most_edge} pixels" if is_long else enough
            raise ImageError(
                "preprocess",
                "TooThin",
                f"{output_hw[1]}x{output_hw[0]} pixels would be resized to {width}x{height}{enough}",
                size_hw=output_hw,
            )
        return (first,) if last == first else (first, last)

    def _edges(self, output_hw: SizeHW, size: AspectSize) -> SizeHW:
        """Return height and width by the shortest and the longest edge."""
        match self.rounding:
            case "transformers":
                longest = None if self.lone_edge else size.longest_edge
                return size_with_aspect_ratio(output_hw, size.shortest_edge, longest)
            case "detectron2":
                return size_as_detectron2(output_hw, size.shortest_edge, size.longest_edge)
            case "mmcv":
                height, width = scaled_within(output_hw, size.shortest_edge, size.longest_edge)
                return int(height + 0.5), int(width + 0.5)
            case "round":
                height, width = scaled_within(output_hw, size.shortest_edge, size.longest_edge)
                return round(height), round(width)

    def canvas_size(self, output_hw: SizeHW) -> SizeHW:
        """Return (Hc, Wc) for an image of (H, W). Raises ImageError if the content is larger than ``pad_size``."""
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

    def canvas_of(self, window_hw: SizeHW) -> SizeHW:
        """Return (Hc, Wc) for a window of the resized image: zeros up to multiples of the divisor."""
        return _round_up(window_hw[0], self.divisor), _round_up(window_hw[1], self.divisor)

    def describe(self) -> str:
        """Return one phrase for the plan printed before a run."""
        match self.size:
            case ExactSize():
                text = f"{self.size.height}x{self.size.width} (height x width), aspect ratio not kept"
            case AspectSize():
                edges = f"{self.size.shortest_edge} / {self.size.longest_edge}"
                text = f"shortest / longest edge {self.size.shortest_edge if self.lone_edge else edges}"
                text += ROUNDED[self.rounding]
            case None:
                text = "as they are"
        if self.round_content and self.divisor > 1 and self.size is not None:
            text += f", stretched to multiples of {self.divisor}"
        elif isinstance(self.size, AspectSize) and self.divisor > 1:
            text += f", {'black' if self.pads_black else 'zeros'} up to multiples of {self.divisor}"
        text += f", then stretched to multiples of {self.stretch_to}" if self.stretch_to > 1 else ""
        if self.pad_size is not None:
            black = " with black" if self.pads_black else ""
            text += f", padded{black} to {self.pad_size[0]}x{self.pad_size[1]}"
        text += RESIZED[self.resizing]
        text += ", blue first" if self.is_bgr else ""
        return f"{text} ({self.note})" if self.note else text

    def facts(self) -> dict[str, Any]:
        """Return all that decides a pixel value. What older releases did not know is there only where it is in use."""
        idle = {name for name in LATER if getattr(self, name) == getattr(PreprocessPlan, name)}
        return {name: value for name, value in asdict(self).items() if name not in idle | {"note"}}

    def doubt(self) -> str | None:
        """Return the reason to doubt that the model was trained on such values, or None.

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
        """Return the values of a gray pixel."""
        value = pixel if self.rescale_factor is None else pixel * self.rescale_factor
        if self.mean is None or self.std is None:
            return (value, value, value)
        red, green, blue = ((value - mean) / std for mean, std in zip(self.mean, self.std, strict=True))
        return (red, green, blue)


def with_size(
    plan: PreprocessPlan, size: AspectSize | ExactSize, *, rounding: Rounding = "transformers"
) -> PreprocessPlan:
    """Return the plan with a size of ours: the aspect ratio kept and zeros added, or exactly that size."""
    return replace(plan, size=size, round_content=False, pad_size=None, lone_edge=False, rounding=rounding)


def with_normalization(plan: PreprocessPlan, given: Normalization) -> PreprocessPlan:
    """Return the plan with a mean and deviation of ours for red, green and blue, of pixels from 0 to 1."""
    mean, std = (values[::-1] if plan.is_bgr else values for values in (given.mean, given.std))
    return replace(plan, rescale_factor=1 / 255, mean=mean, std=std)


def size_as_detectron2(image_hw: SizeHW, shortest: int, longest: int) -> SizeHW:
    """Return height and width with the shortest edge at ``shortest``, unless the longest would exceed ``longest``.

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


def scaled_within(image_hw: SizeHW, shortest: int, longest: int) -> tuple[float, float]:
    """Return height and width, not rounded, as large as the two edges allow (mmcv's ``rescale_size``)."""
    scale = min(longest / max(image_hw), shortest / min(image_hw))
    return image_hw[0] * scale, image_hw[1] * scale


def size_with_aspect_ratio(image_hw: SizeHW, shortest: int, longest: int | None) -> SizeHW:
    """Return height and width with the shortest edge at ``shortest``, unless the longest would exceed ``longest``.

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
