"""Draws segments over their image, for people to look at."""

import colorsys
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy.ndimage import distance_transform_edt

from m2f_batch.errors import ArgumentError

THING_OPACITY, STUFF_OPACITY = 0.55, 0.25
GOLDEN_RATIO = 0.618034  # steps of hue that never come close to each other


class Drawable(Protocol):
    """A segment, as far as it is drawn: ``records.Segment``."""

    @property
    def id(self) -> int:
        """The hue of a thing."""

    @property
    def category_id(self) -> int:
        """The hue of stuff."""

    @property
    def category(self) -> str:
        """The name."""

    @property
    def score(self) -> float:
        """The figure behind the name."""

    @property
    def area(self) -> int:
        """Pixels of the mask."""

    def mask(self) -> NDArray[np.bool_]:
        """The mask, bool [H, W]."""


def picture_of(
    image: Image.Image | NDArray[np.uint8], segments: Sequence[Drawable], stuff_ids: frozenset[int] = frozenset()
) -> Image.Image:
    """Draw segments over a PIL image, turned upright, or an array, uint8 [H, W], [H, W, 3] or [H, W, 4].

    Transparency goes over white. Segments without a pixel are left out. Raises ArgumentError for an array of another
    kind, and for an image that has not the size of the masks.
    """
    pixels = _rgb(image)
    drawn = [segment for segment in segments if segment.area]
    for segment in drawn[:1]:
        if (size_hw := segment.mask().shape) != pixels.shape[:2]:
            problem = f"is {pixels.shape[0]} x {pixels.shape[1]} pixels (height x width), and its masks are "
            raise ArgumentError(problem + f"{size_hw[0]} x {size_hw[1]}", field="image", hint="give the image labeled")
    return Image.fromarray(draw_overlay(pixels, drawn, stuff_ids))


def _rgb(image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
            problem = f"is an array of {image.dtype}, {list(image.shape)}"
            raise ArgumentError(problem, field="image", allowed="uint8 [H, W], [H, W, 3] or [H, W, 4]")
        image = Image.fromarray(image)
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    return np.asarray(upright.convert("RGB"))


def draw_overlay(
    image: NDArray[np.uint8], segments: Sequence[Drawable], stuff_ids: frozenset[int] = frozenset()
) -> NDArray[np.uint8]:
    """Draw each segment tinted, outlined and named over an image, uint8 [H, W, 3]. A thing has a hue, stuff is paler.

    Larger segments are drawn first, so that none is hidden.
    """
    canvas = image.astype(np.float32)
    ordered = sorted(segments, key=lambda segment: -segment.area)
    masks = [segment.mask() for segment in ordered]
    for segment, mask in zip(ordered, masks, strict=True):
        is_stuff = segment.category_id in stuff_ids
        color = np.asarray(_color(segment.category_id if is_stuff else segment.id), dtype=np.float32)
        opacity = STUFF_OPACITY if is_stuff else THING_OPACITY
        canvas[mask] = (1 - opacity) * canvas[mask] + opacity * color
        canvas[_outline(mask)] = color * 0.45
    picture = Image.fromarray(np.rint(canvas).astype(np.uint8))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=max(10, min(image.shape[:2]) // 18))
    for segment, mask in zip(ordered, masks, strict=True):
        text = f"{segment.category} {segment.score:.2f}"
        x, y = _inner_point(mask)
        half = pen.textlength(text, font=font) / 2 + 1  # the whole text stays inside the picture
        place = (min(max(x, half), max(half, picture.width - half)), min(max(y, 8), picture.height - 8))
        pen.text(place, text, fill="white", stroke_fill="black", stroke_width=1, font=font, anchor="mm")
    return np.asarray(picture)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the mask with a neighbor, up, down, left or right, outside it."""
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _inner_point(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """(x, y) of the pixel of the mask that is farthest from its edge."""
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), mask.shape)
    return int(x), int(y)


def _color(number: int) -> tuple[float, float, float]:
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN_RATIO % 1, 0.85, 1.0)
    return 255 * red, 255 * green, 255 * blue
