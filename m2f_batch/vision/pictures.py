"""Draws all segments of an image over it, for people to look at."""

from collections.abc import Iterable, Sequence

from PIL import Image

from m2f_batch.config.section import MAX_PIXELS
from m2f_batch.errors import ArgumentError, ImageError
from m2f_batch.records import Segment, of_one_image
from m2f_batch.vision.decode.given import ALLOWED, ImageLike, checked_one, is_one, loaded, rgb_of


def plot(image: ImageLike, segments: Sequence[Segment], *, stuff_ids: Iterable[int] = ()) -> Image.Image:
    """Draw ``segments``, tinted, outlined and named, over their image, and return the picture at the image's size.

    ``image`` is whatever a ``Segmenter`` takes: a path or URI, encoded bytes, a PIL image, or an array, uint8 [H, W],
    [H, W, 3] or [H, W, 4]. It is left as it is. Larger segments are drawn first. Labels of ``stuff_ids`` are paler, and
    have one color each. Segments without a pixel are left out. Raises ArgumentError for an image that is none or has
    not the size of the masks, and for what are no segments of one image. Raises ImageError for an image that cannot be
    read.

    Source: ``m2f-batch demo`` draws its contact sheet so.

        plot("photo.jpg", segmenter("photo.jpg")).save("look.png")
    """
    from m2f_batch.vision.overlay import draw_overlay  # loads scipy

    if not is_one(image):
        raise ArgumentError("is not one image", field="image", allowed=ALLOWED)
    (given,) = loaded([checked_one(image, "image")])
    if isinstance(given.pixels, ImageError):
        raise given.pixels
    pixels = rgb_of(given.pixels, MAX_PIXELS)
    drawn = [segment for segment in of_one_image(segments) if segment.area]
    for segment in drawn[:1]:
        if segment.size != pixels.shape[:2]:
            problem = f"is {pixels.shape[0]} x {pixels.shape[1]} pixels (height x width), and its masks are "
            problem += f"{segment.size[0]} x {segment.size[1]}"
            raise ArgumentError(problem, field="image", hint="give the image labeled")
    return Image.fromarray(draw_overlay(pixels, drawn, frozenset(stuff_ids)))
