"""Draws segments over their image, for people to look at."""

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt

from m2f_batch.records import Segment

THING_OPACITY, STUFF_OPACITY = 0.55, 0.25
GOLDEN_RATIO = 0.618034  # steps of hue that never come close to each other


def draw_overlay(
    image: NDArray[np.uint8], segments: Sequence[Segment], stuff_ids: frozenset[int] = frozenset()
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
