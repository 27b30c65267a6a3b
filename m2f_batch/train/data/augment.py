"""Resizes an image and its masks with Pillow, crops, flips and recolors them for training, as one generator draws it.

The ``segment`` command resizes in ``vision/pixels/preprocess``.

Large-scale jitter (``fit``; Ghiasi et al. 2021; detectron2's ``ResizeScale`` and ``FixedSizeCrop``): the image is
scaled so that it fits the canvas times a random factor, then cropped where it is larger. ``shortest_edge``
(detectron2's ``ResizeShortestEdge`` and ``RandomCrop``, with any factor in the range instead of every tenth): its
shortest edge is that of the canvas times the factor. Where an image is smaller, the rest of the canvas is padding,
which the model's side adds after normalization. Color is detectron2's ``ColorAugSSDTransform``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from m2f_batch.config.finetune import Resize
from m2f_batch.models.preprocess_plan import SizeHW

# at strength 1: of 255, relative, relative, and degrees of hue
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32.0, 0.5, 0.5, 18.0
HUES = 256 / 360  # Pillow's steps per degree
LONGEST = 2.0  # of shortest_edge: longest edge in largest shortest edges, as MAX_SIZE_TRAIN of the paper's configs


@dataclass(frozen=True)
class View:
    """The part of an image that is seen, and its size: sizes and offsets in pixels.

    The image is scaled to ``scaled_hw``. From ``offset`` (y, x) on, ``content_hw`` of it is kept, and with
    ``is_flipped`` mirrored left to right.
    """

    image_hw: SizeHW
    scaled_hw: SizeHW
    offset: tuple[int, int]
    content_hw: SizeHW
    is_flipped: bool

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the view of an RGB image, uint8 [H, W, 3] to [h, w, 3]: bilinear, antialiased where it shrinks."""
        (top, left), (height, width) = self.offset, self.content_hw
        if self.scaled_hw == self.image_hw:
            seen = image[top : top + height, left : left + width]
        else:
            down, across = (full / scaled for full, scaled in zip(self.image_hw, self.scaled_hw, strict=True))
            box = (left * across, top * down, (left + width) * across, (top + height) * down)
            resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=box)
            seen = np.asarray(resized)
        return np.ascontiguousarray(seen[:, ::-1] if self.is_flipped else seen)

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the view of a mask, bool [H, W] to [h, w]: each pixel takes the nearest one."""
        rows, columns = (
            _sources(*lengths)
            for lengths in zip(self.image_hw, self.scaled_hw, self.offset, self.content_hw, strict=True)
        )
        return mask[rows[:, None], columns[::-1] if self.is_flipped else columns]


def draw_view(
    rng: np.random.Generator,
    image_hw: SizeHW,
    crop_hw: SizeHW,
    scale: tuple[float, float],
    flip: float,
    resize: Resize = "fit",
) -> View:
    """Draw a random view of an image of ``image_hw`` on a canvas of ``crop_hw``."""
    factor = rng.uniform(*scale)
    if resize == "fit":
        ratio = min(factor * crop / length for crop, length in zip(crop_hw, image_hw, strict=True))
    else:
        edge = min(crop_hw)
        ratio = min(factor * edge / min(image_hw), LONGEST * scale[1] * edge / max(image_hw))
    scaled_h, scaled_w = (max(1, round(length * ratio)) for length in image_hw)
    room_h, room_w = max(0, scaled_h - crop_hw[0]), max(0, scaled_w - crop_hw[1])
    offset = (int(rng.integers(room_h + 1)), int(rng.integers(room_w + 1)))
    content = (min(scaled_h, crop_hw[0]), min(scaled_w, crop_hw[1]))
    return View(image_hw, (scaled_h, scaled_w), offset, content, bool(rng.random() < flip))


def jitter_color(rng: np.random.Generator, image: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """Change brightness, contrast, saturation and hue of an RGB image, uint8 [h, w, 3], each every other time."""
    if strength <= 0:
        return image
    use = rng.random(4) < 0.5
    contrast_first = rng.random() < 0.5
    shift = rng.uniform(-BRIGHTNESS, BRIGHTNESS) * strength if use[0] else 0.0
    gain = 1 + rng.uniform(-CONTRAST, CONTRAST) * strength if use[1] else 1.0
    saturation = 1 + rng.uniform(-SATURATION, SATURATION) * strength if use[2] else 1.0
    hue = rng.uniform(-HUE, HUE) * strength * HUES if use[3] else 0.0
    levels = np.arange(256) + shift
    if contrast_first:
        levels = levels.clip(0, 255) * gain
    image = _levels(levels)[image]
    if saturation != 1.0 or hue != 0.0:
        hsv = np.array(Image.fromarray(image).convert("HSV"))
        hsv[..., 0] = ((np.arange(256) + round(hue)) % 256).astype(np.uint8)[hsv[..., 0]]
        hsv[..., 1] = _levels(np.arange(256) * saturation)[hsv[..., 1]]
        image = np.asarray(Image.fromarray(hsv, mode="HSV").convert("RGB"))
    return image if contrast_first else _levels(np.arange(256) * gain)[image]


def _levels(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return values.round().clip(0, 255).astype(np.uint8)


def _sources(length: int, scaled: int, offset: int, kept: int) -> NDArray[np.int64]:
    """Find for each of ``kept`` pixels the nearest of ``length`` pixels to its center."""
    centers = (np.arange(offset, offset + kept) + 0.5) * (length / scaled)
    return np.minimum(centers.astype(np.int64), length - 1)
