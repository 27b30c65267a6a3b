"""Turns samples into sRGB over white by the color rules of the decode policy, which ``image`` states in words."""

import io
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_PLAIN = {"1": "L", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
DEEP = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
MODES = frozenset({"L", "LA", "RGB", "RGBA", "P", "CMYK", "LAB", *_PLAIN, *DEEP})
_COLOR_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}
_BAND_PIXELS = 4_000_000

_Key = int | tuple[int, ...]


def color_key(image: Image.Image) -> _Key | None:
    """The color that stands for transparent (tRNS of a PNG, GIF), in samples as Pillow is going to load them."""
    key = image.info.get("transparency")
    if not isinstance(key, (int, tuple)) or image.mode not in ("1", "L", "RGB", "I;16"):
        return None
    tile = getattr(image, "tile", None)
    layout = tile[0][3] if tile else None
    if isinstance(key, tuple):
        return tuple(value >> 8 for value in key) if layout == "RGB;16B" else key
    return key * 85 if layout == "L;2" else key * 17 if layout == "L;4" else key


def to_rgb(image: Image.Image, white: int, inverted: bool, key: _Key | None) -> Image.Image:
    """A loaded image of any known mode: RGB, in sRGB and over white."""
    alpha, icc = None, image.info.get("icc_profile")
    if key is not None:
        samples = np.asarray(image.convert("L") if image.mode == "1" else image)
        opaque = (samples != np.asarray(key)).reshape(*samples.shape[:2], -1).any(axis=-1)
        alpha = Image.fromarray(opaque.astype(np.uint8) * 255)
    if image.mode in DEEP:
        gray = _eight_bit(np.asarray(image), white)
        image = Image.fromarray(255 - gray if inverted else gray)
    elif image.mode == "P":
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode in _PLAIN:
        image = image.convert(_PLAIN[image.mode])
    if image.mode in ("LA", "RGBA"):
        alpha, image = image.getchannel("A"), image.convert(image.mode[:-1])
    color = _to_srgb(image, icc if isinstance(icc, bytes) else b"")
    if alpha is None:
        return color
    canvas = Image.new("RGB", color.size, "white")
    canvas.paste(color, None, alpha)  # (color * alpha + 255 * (255 - alpha)) / 255, rounded exactly
    return canvas


def _to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    transform = _transform(icc, image.mode) if icc else None
    if transform is not None:
        return cast("Image.Image", ImageCms.applyTransform(image, transform))
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=16)
def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from a profile to sRGB. None for one that is unreadable, of another color space, or sRGB itself.

    What a profile does to a few colors decides that, not its name: "DCI-P3 D65 Gamut with sRGB Transfer" is none.
    """
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if profile.profile.xcolor_space != _COLOR_SPACES.get(mode):
            return None
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(profile, srgb, mode, "RGB", ImageCms.Intent.PERCEPTUAL)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode == "CMYK":
        return transform
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    probe = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    before = Image.fromarray(probe).convert(mode)
    after = np.asarray(ImageCms.applyTransform(before, transform), np.int16)
    return transform if np.abs(after - np.asarray(before.convert("RGB"), np.int16)).max() > 1 else None


def _eight_bit(values: NDArray[Any], white: int) -> NDArray[np.uint8]:
    """Gray samples [H, W] of 16 bits, int32 or float32 as uint8 [H, W], by the rules above."""
    top = 1.0 if values.dtype.kind == "f" else float(white)
    finite = np.isfinite(values)
    known = values if finite.all() else values[finite]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, top)
    if low >= 0 and high <= top:
        low, high = 0.0, top
    out = np.empty(values.shape, np.uint8)
    rows = max(1, _BAND_PIXELS // values.shape[1])  # float64 of a whole image would take 8 bytes a pixel
    with np.errstate(all="ignore"):  # a NaN that signals
        for at in range(0, len(values), rows):
            band = np.where(finite[at : at + rows], values[at : at + rows], low).astype(np.float64)
            out[at : at + rows] = np.rint((band - low) / ((high - low) or 1.0) * 255)
    out[~finite] = 0
    return out
