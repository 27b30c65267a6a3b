"""Real awkward files decode to known sizes and means, or fail with a known reason."""

import json
import warnings
from typing import Any

import numpy as np
import pytest
from support.image_files import AWKWARD, failure

from m2f_batch.vision.decode.image import decode


@pytest.fixture(autouse=True)
def _no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# What each file must give, each looked at: (H, W) after orientation, or the reason of the error.
OUTCOMES: dict[str, tuple[int, int] | str] = {
    "16bit/pillow__12bit.cropped.tif": (100, 100),
    "16bit/pillow__tiff_16bit_RGB.tiff": (40, 100),
    "16bit/pillow_heif__RGB_16__128x128.png": (128, 128),
    "16bit/sharp__Flag_of_the_Netherlands-16bit.png": (600, 900),
    "alpha/libvips__rgba.png": (128, 128),
    "alpha/pillow__l_trns.png": (64, 64),
    "alpha/pillow__rgb_trns.png": (64, 64),
    "alpha/sharp__alpha-premultiply-1024x768-paper.png": (768, 1024),
    "alpha/sharp__grey-8bit-alpha.png": (300, 400),
    "animated/libavif__colors-animated-8bpc.avif": (150, 150),
    "animated/pillow__dispose_op_background.png": (64, 128),
    "animated/pillow__iss634.webp": (245, 245),
    "animated/sharp__rotating-squares.gif": (80, 80),
    "avif/libavif__cosmos1650_yuv444_10bpc_p3pq.avif": (428, 1024),
    "avif/libavif__sofa_grid1x5_420.avif": (770, 1024),
    "avif/pillow__hopper.avif": (128, 128),
    "bomb/libvips__17000x17000.avif": "TooManyPixels",
    "bomb/pillow__decompression_bomb_extents.gif": (100, 100),
    "bomb/pillow__png_decompression_dos.png": (1, 1),  # the bomb is a text
    "cmyk/pillow__pil_sample_cmyk.jpg": (100, 100),
    "cmyk/pillow__tiff_strip_cmyk_jpeg.tif": (100, 100),
    "cmyk/sharp__Channel_digital_image_CMYK_color_no_profile.jpg": (333, 500),
    "corrupt/exifsamples__image00971.jpg": (227, 636),
    "corrupt/pillow__broken.png": "Corrupt",
    "corrupt/pillow__crash-0c7e0e8e11ce787078f00b5b0ca409a167f070e0.tif": "Truncated",
    "corrupt/pillow__hopper_idat_after_image_end.png": (128, 128),
    "corrupt/pillow__reallybig.bmp": "TooManyPixels",
    "corrupt/pillow__shortfile.bmp": "Truncated",
    "corrupt/pillow__zero_width.gif": "ZeroSize",
    "corrupt/pillow_heif__empty.heic": "Empty",
    "exif_broken/pillow__broken_exif_dpi.jpg": (100, 100),
    "exif_broken/pillow__exif_typeerror.jpg": (531, 800),
    "exif_gps/exifsamples__DSCN0010.jpg": (480, 640),
    "exif_orientation/exifor__Landscape_0.jpg": (1200, 1800),
    "exif_orientation/exifor__Landscape_2.jpg": (1200, 1800),
    "exif_orientation/exifor__Landscape_4.jpg": (1200, 1800),
    "exif_orientation/exifor__Landscape_6.jpg": (1200, 1800),
    "exif_orientation/exifor__Landscape_8.jpg": (1200, 1800),
    "exif_orientation/exifor__Portrait_8.jpg": (1800, 1200),
    "exif_orientation/pillow__g4_orientation_6.tif": (88, 590),
    "exif_orientation/pillow__rot1mir0.avif": (427, 640),
    "exif_orientation/sharp__Landscape_9.jpg": (369, 480),
    "float/pillow__10ct_32bit_128.tiff": (128, 128),
    "grayscale/libvips__1bit.tif": (4, 256),
    "grayscale/pillow__hopper_gray.jpg": (128, 128),
    "hdr_gainmap/libavif__seine_sdr_gainmap_srgb.jpg": (300, 400),
    "heic/exifsamples__IMG_5195.HEIC": (3313, 2566),
    "heic/pillow_heif__RGBA_10__128x128.heif": (128, 128),
    "heic/pillow_heif__pug.heic": (3024, 4032),
    "huge/pillow_heif__200MP.heic": (16320, 12240),
    "jpeg2000/pillow__16bit.cropped.jp2": (64, 64),
    "multi_picture/pillow__frozenpond.mpo": (480, 640),
    "multi_picture/pillow__sugarshack_bad_mpo_header.jpg": (480, 640),
    "multipage/pillow__multipage.tiff": (10, 10),
    "multipage/sharp__G31D_MULTI.TIF": (3248, 2464),
    "not_photo/libvips__ISO_12233-reschart.pdf": "NotAnImage",
    "not_photo/libvips__logo.svg": "NotAnImage",
    "not_photo/libvips__sample.hdr": "NotAnImage",
    "not_photo/pillow__hopper.bmp": (128, 128),
    "palette/libvips__indexed.png": (442, 290),
    "palette/pillow__mode_palette_alpha.png": (64, 128),
    "palette/sharp__swiss.png": (68, 68),
    "panorama/pannellum__examplepano.jpg": (2048, 4096),
    "plain_photo/libvips__sample.jpg": (442, 290),
    "plain_photo/pillow__flower.webp": (360, 480),
    "plain_photo/sharp__320x240.jpg": (240, 320),
    "tiff_odd/libvips__ojpeg-tile.tif": (213, 234),
    "tiff_odd/pillow__hopper_bigtiff.tif": (128, 128),
    "tiff_odd/pillow__old-style-jpeg-compression.tif": (870, 4160),
    "tiny_or_thin/libavif__white_1x1.avif": (1, 1),
    "tiny_or_thin/pillow_heif__RGB_8__29x100.heif": (100, 29),
    "tiny_or_thin/sharp__big-height.webp": (169, 13),
    "truncated/libvips__truncated.gif": "Truncated",
    "truncated/pillow__truncated_image.png": "Truncated",
    "truncated/pillow_heif__truncated.heic": (16, 16),
    "truncated/sharp__truncated.png": "Truncated",
    "wide_gamut_icc/libvips__sample-xyb.jpg": (442, 290),
    "wide_gamut_icc/pillow__hopper.Lab.tif": (128, 128),
    "wide_gamut_icc/sharp__p3.png": (8, 8),
    "wrong_extension/libvips__looks-like-svg.webp": (256, 256),
}

# Mean colours where a wrong rule would show: inverted CMYK, white 16-bit, an ignored profile, black for transparent.
# sample.jpg (A98), sample-xyb.jpg and indexed.png are one photo in three codings, hopper.* likewise.
MEANS = {
    "16bit/pillow_heif__RGB_16__128x128.png": (127, 127, 128),
    "alpha/sharp__grey-8bit-alpha.png": (245.5, 245.5, 245.5),
    "alpha/sharp__alpha-premultiply-1024x768-paper.png": (244.4, 237, 235.6),
    "cmyk/pillow__pil_sample_cmyk.jpg": (30, 5, 7),
    "cmyk/pillow__tiff_strip_cmyk_jpeg.tif": (30, 5, 7),
    "cmyk/sharp__Channel_digital_image_CMYK_color_no_profile.jpg": (109, 132, 110),
    "multipage/pillow__multipage.tiff": (0, 128, 0),
    "plain_photo/libvips__sample.jpg": (127.6, 118, 108.4),
    "wide_gamut_icc/libvips__sample-xyb.jpg": (127.6, 118, 108.4),
    "palette/libvips__indexed.png": (127.6, 118, 108.4),
    "not_photo/pillow__hopper.bmp": (89.7, 80.1, 95.4),
    "avif/pillow__hopper.avif": (89.7, 80.1, 95.4),
    "corrupt/pillow__hopper_idat_after_image_end.png": (89.7, 80.1, 95.4),
    "tiff_odd/pillow__hopper_bigtiff.tif": (89.7, 80.1, 95.4),
    "wide_gamut_icc/pillow__hopper.Lab.tif": (89.7, 80.1, 95.4),
    "wide_gamut_icc/sharp__p3.png": (255, 0, 0),
}


@pytest.mark.skipif(not AWKWARD.is_dir(), reason="no shared/data/awkward beside the checkout")
def test_every_awkward_file_is_in_the_table() -> None:
    assert {entry["file"] for entry in json.loads((AWKWARD / "manifest.json").read_text())} == set(OUTCOMES)


@pytest.mark.skipif(not AWKWARD.is_dir(), reason="no shared/data/awkward beside the checkout")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name.startswith("huge/") else ()) for name in OUTCOMES]
)
@pytest.mark.timeout(120)  # the 200 megapixels take 5 to 12 seconds and 2.2 GB
def test_awkward(name: str) -> None:
    data, wanted = (AWKWARD / name).read_bytes(), OUTCOMES[name]
    if data[8:12] in (b"heic", b"mif1") and name.startswith(("heic/", "huge/", "tiny", "truncated/")):
        pytest.importorskip("pillow_heif")
    if isinstance(wanted, str):
        assert failure(data).reason == wanted
        return
    pixels = decode(data)
    assert pixels.shape == (*wanted, 3)
    if name in MEANS:
        assert np.abs(pixels.mean(axis=(0, 1)) - MEANS[name]).max() < 3
