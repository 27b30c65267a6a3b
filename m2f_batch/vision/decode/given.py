"""Takes images as callers in Python give them: where they lie, encoded, opened or decoded. Loads no torch."""

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from m2f_batch.errors import ArgumentError, DecodeError, ImageError, UsageError
from m2f_batch.inputs.fetch import fetch_now
from m2f_batch.processes import in_threads
from m2f_batch.records import ImageRef
from m2f_batch.storage import allow
from m2f_batch.storage.uris import normalize, without_secrets
from m2f_batch.vision.decode.image import decode, from_pil

Pixels = bytes | Image.Image | NDArray[np.uint8]  # an image in memory
Checked = str | os.PathLike[str] | Pixels
ImageLike = Checked | bytearray | memoryview
TWELVE_BITS = 4095
ALLOWED = (
    "a path or URI, encoded bytes, a PIL image, or an array in RGB order: uint8 [H, W], [H, W, 3] or [H, W, 4] (RGBA)"
)
THREADS = 16  # that fetch what is not in memory


class Given(NamedTuple):
    """One image in memory, or why it cannot be had. ``ref`` is None unless it was read from a place."""

    pixels: Pixels | ImageError
    ref: ImageRef | None = None


def is_one(images: object) -> TypeGuard[ImageLike]:
    """Tell whether ``images`` is one image, and not several. An array of four dimensions is several."""
    if isinstance(images, np.ndarray):
        return images.ndim != 4
    return isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image)


def checked(images: object) -> list[Checked]:
    """Return several images, each of which has the form of one. Raises ArgumentError, which names the first other."""
    if is_one(images):
        return [checked_one(images, "images")]
    if not isinstance(images, Iterable) or isinstance(images, dict) or hasattr(images, "read"):  # lines of a file
        raise ArgumentError(f"is {_kind(images)}", field="images", allowed=f"{ALLOWED}; or a list of them")
    return [checked_one(image, f"images[{index}]") for index, image in enumerate(images)]


def checked_one(image: object, name: str) -> Checked:
    """Return an image that has a form of one. Raises ArgumentError of the argument ``name`` for what has none."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
            raise ArgumentError(f"is {_kind(image)}", field=name, allowed=ALLOWED, hint=_scaling(image))
        return image
    if not is_one(image):
        raise ArgumentError(f"is {_kind(image)}", field=name, allowed=ALLOWED)
    if isinstance(image, Image.Image) and _is_closed(image):
        hint = "give it before it is closed, or a copy() of it"
        raise ArgumentError("is a closed PIL image", field=name, hint=hint)
    return bytes(image) if isinstance(image, bytearray | memoryview) else image


def _scaling(image: NDArray[np.generic]) -> str:
    """Return what makes uint8 of an array of other numbers, by their range as it seems."""
    if image.dtype == np.uint8 or image.dtype.kind not in "biuf" or image.min(initial=0) < 0:
        return ""
    top = image.max(initial=0)
    if top <= 1:
        return "give (image * 255).round().astype('uint8')"
    if top <= 255:
        return "give image.round().astype('uint8')"
    scaled = "(image / 257).round()" if top > TWELVE_BITS else "(image >> 4)"
    return f"give {scaled}.astype('uint8')" if image.dtype == np.uint16 else ""


def _is_closed(image: Image.Image) -> bool:
    """Tell whether an image has no pixels any more, nor a file to read them from."""
    try:
        has_pixels = image.im is not None
    except AssertionError:  # Pillow's answer for one whose pixels were not read so far
        has_pixels = False
    except ValueError:  # and for one that was closed
        return True
    return not has_pixels and getattr(image, "fp", None) is None


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, {list(value.shape)}"
    return "None" if value is None else f"of type {type(value).__name__}"


def loaded(images: list[Checked]) -> Iterator[Given]:
    """Yield each of these ``checked`` images in memory, in order. What is not there is fetched by threads, ahead.

    Raises TransientError and StoreUnavailable as ``fetch``.
    """
    if sum(isinstance(image, str | os.PathLike) for image in images) < 2:
        yield from map(_loaded, images)
    else:
        for _, given in in_threads(_loaded, images, THREADS, 2 * THREADS, waits=False, name="fetch"):
            yield given


def _loaded(image: Checked) -> Given:
    if not isinstance(image, str | os.PathLike):
        return Given(image)
    text = os.fspath(image)
    try:
        uri = normalize(text)
    except UsageError as error:
        return Given(ImageError("fetch", "BadUri", str(error)), ImageRef(without_secrets(text), ""))
    try:
        allow.check_web(uri, allow.OF_MACHINE)
    except UsageError as error:
        return Given(ImageError("fetch", "NotAllowed", f"{without_secrets(uri)}: {error}"), ImageRef(uri, ""))
    try:
        ref, data = fetch_now(uri)
    except ImageError as error:
        return Given(error, ImageRef(uri, ""))
    return Given(data, ref)


def rgb_of(image: Pixels, max_pixels: int) -> NDArray[np.uint8]:
    """Return the pixels of an image in memory, uint8 [H, W, 3], by the decode policy. Raises DecodeError.

    An array [H, W, 3] is taken as it is. Gray is repeated, and what is transparent goes over white.
    """
    if isinstance(image, bytes):
        return decode(image, max_pixels=max_pixels)
    if isinstance(image, Image.Image):
        return from_pil(image, max_pixels=max_pixels)
    image = np.asarray(checked_one(image, "image"))
    if image.size == 0:
        raise DecodeError("ZeroSize", f"the size is {image.shape[1]} x {image.shape[0]}")
    return image if image.ndim == 3 and image.shape[2] == 3 else from_pil(Image.fromarray(image), max_pixels=max_pixels)
