"""Reads the values of a mask from its file: gray, palette or, with the colors of the classes, a picture."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2f_batch.datasets import files
from m2f_batch.datasets.png.palette import shown
from m2f_batch.errors import DecodeError

_PICTURES = ("RGB", "RGBA")
_BITS = 8  # of a channel, in the header of a PNG


def read_values(uri: str, colors: str | None = None) -> tuple[NDArray[Any], bool]:
    """The values of a mask, integer [H, W], and whether the file is a picture whose three channels are alike.

    ``colors``: a file that may say what colors are, for the message.

    Raises DecodeError for a picture in colors and for what is no mask, ObjectError for what cannot be fetched.
    """
    image, data = files.open_mask(uri)
    if image.mode == "LA" and data[24] == _BITS:
        image = image.convert("RGBA")
    if image.mode not in _PICTURES:
        return files.indices_of(image, data), False
    pixels = _opaque(np.asarray(image))
    if (pixels != pixels[..., :1]).any():
        raise DecodeError(
            "UnsupportedMode",
            f"a picture of mode {image.mode}; wanted one channel, gray or palette; semantic masks in colors are read "
            f"with data.palette={colors or '{name: [r, g, b], ...}'}",
        )
    return pixels[..., 0], True


def read_classes(uri: str, palette: Mapping[int, int]) -> NDArray[np.int64]:
    """Reads the classes of a picture by the colors of ``palette``, as [H, W], -1 where ignored.

    Raises DecodeError for a color that is not in it, ObjectError for what cannot be fetched.
    """
    image, _ = files.open_mask(uri)
    if image.mode in ("I", "I;16", "I;16B", "F"):
        raise DecodeError("UnsupportedMode", f"a mask of mode {image.mode}; data.palette reads colors of 8 bits")
    if image.mode not in _PICTURES:
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    pixels = _opaque(np.asarray(image)).astype(np.int64)
    colors, places = np.unique(pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2], return_inverse=True)
    unknown = [shown(color) for color in colors.tolist() if color not in palette]
    if unknown:
        listed = f"{', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else ''}"
        raise DecodeError("UnknownColor", f"{len(unknown):,} colors that data.palette lacks: {listed}")
    classes = np.array([palette[color] for color in colors.tolist()], np.int64)
    return classes[places.reshape(pixels.shape[:2])]


def _opaque(pixels: NDArray[Any]) -> NDArray[Any]:
    """Returns [H, W, 3] of [H, W, 3 or 4]. Raises DecodeError where alpha says something."""
    if pixels.shape[2] == 4 and (pixels[..., 3] != 255).any():
        raise DecodeError(
            "UnsupportedMode", "a picture with transparent pixels: what they are is not known; write it opaque"
        )
    return pixels[..., :3]
