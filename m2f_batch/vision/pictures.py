"""Draws all segments of an image over it, for people to look at."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from m2f_batch.config.section import MAX_PIXELS
from m2f_batch.errors import ArgumentError, ImageError
from m2f_batch.records import Segment
from m2f_batch.vision.decode.given import ImageLike, checked, is_one, loaded, rgb_of

if TYPE_CHECKING:
    from PIL.Image import Image


def plot(image: ImageLike, segments: Sequence[Segment], *, stuff_ids: Iterable[int] = ()) -> "Image":
    """Draw segments, tinted, outlined and named, over their image, and return the picture at the image's size.

    ``image`` is whatever a ``Segmenter`` takes: a path or URI, encoded bytes, a PIL image, or an array, uint8 [H, W],
    [H, W, 3] or [H, W, 4]. It is left as it is. Larger segments are drawn first. Labels of ``stuff_ids`` are paler, and
    have one color each. Raises ArgumentError for what is no image, or has not the size of the masks, and ImageError for
    an image that cannot be read.

    Source: ``m2f-batch demo`` draws its contact sheet so.

        plot("photo.jpg", segmenter("photo.jpg")).save("look.png")
    """
    from m2f_batch.shapes.overlay import picture_of

    if not is_one(image):
        raise ArgumentError("is not one image", field="image", allowed="what a Segmenter takes, one at a time")
    (given,) = loaded(checked(image))
    if isinstance(given.pixels, ImageError):
        raise given.pixels
    return picture_of(rgb_of(given.pixels, MAX_PIXELS), segments, frozenset(stuff_ids))
