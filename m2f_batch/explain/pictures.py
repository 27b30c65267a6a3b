"""Draws what one image was on its way to segments, as uint8 pictures [H, W, 3]."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation, find_objects
from scipy.ndimage import label as components
from torch import Tensor
from torch.nn.functional import interpolate

from m2f_batch.models.preprocess_plan import PreprocessPlan, SizeHW
from m2f_batch.records import Segment
from m2f_batch.vision.masks.frame import Frame
from m2f_batch.vision.masks.rle import encode_mask
from m2f_batch.vision.overlay import draw_overlay

Picture = NDArray[np.uint8]

MOST_PIXELS = 4_000_000  # of a drawing, while the decoded image itself is always full size
LEAST_EDGE, MOST_EDGE = 512, 2048  # pixels of a small image's drawing, as far as whole multiples come up to them
CELL, CAPTION, GAP = 208, 34, 10  # pixels of the sheet's cells: the width, the text below, and what is free below that
COLUMNS = 6
RINGS = 100  # places ringed in a picture of differences
KEPT, DROPPED = (40, 170, 70), (200, 60, 50)
LOST, FOUND = (255, 60, 40), (40, 200, 255)


class Cell(NamedTuple):
    """One heatmap of the sheet: which query, times what, and the two lines below it."""

    query: int
    score: float
    is_kept: bool
    lines: tuple[str, str]


def seen_by_model(values: Tensor, plan: PreprocessPlan) -> Picture:
    """Pixel values [3, Hc, Wc] back to colors, padding and all (zeros there are the mean color)."""
    planes = values.numpy().transpose(1, 2, 0)
    if plan.mean is not None and plan.std is not None:
        planes = planes * np.asarray(plan.std, np.float32) + np.asarray(plan.mean, np.float32)
    if plan.rescale_factor is not None:
        planes = planes / np.float32(plan.rescale_factor)
    colors = np.rint(planes.clip(0, 255)).astype(np.uint8)
    return colors[..., ::-1] if plan.is_bgr else colors


def heatmaps(mask_logits: Tensor, frame: Frame, cells: Sequence[Cell]) -> Picture:
    """Draw class score x mask probability over the content, each at the output's aspect ratio. Black is 0.

    A row is as high as its pictures and their captions, so that a caption stands below its own picture.
    """
    height, width = _cell_hw(frame)
    rows = math.ceil(len(cells) / COLUMNS) or 1
    deep = height + 6 + CAPTION + GAP
    sheet = Image.new("RGB", (min(len(cells), COLUMNS) * CELL or CELL, rows * deep), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for number, cell in enumerate(cells):
        y, x = number // COLUMNS * deep, number % COLUMNS * CELL
        picture = Image.fromarray(_heat(_probability(mask_logits[cell.query], frame) * cell.score))
        color = KEPT if cell.is_kept else DROPPED
        left, top = x + (CELL - width) // 2, y + 2
        pen.rectangle((left - 2, top - 2, left + picture.width + 1, top + picture.height + 1), fill=color)
        sheet.paste(picture, (left, top))
        for line, text in enumerate(cell.lines):
            pen.text((x + 4, y + height + 5 + 15 * line), _fitting(text, pen, font), fill=color, font=font)
    return np.asarray(sheet)


def overlay(rgb: Picture, segments: Sequence[Segment], stuff_ids: frozenset[int]) -> Picture:
    """Draw the segments over the image. A large image is drawn smaller, a small one larger."""
    size_hw = _drawn(rgb.shape[:2])
    if size_hw == rgb.shape[:2]:
        return draw_overlay(rgb, segments, stuff_ids)
    drawn = (_at_size(segment, size_hw) for segment in segments)
    return draw_overlay(_resized(rgb, size_hw), [segment for segment in drawn if segment.area], stuff_ids)


def difference(rgb: Picture, pairs: Sequence[tuple[Segment | None, Segment | None]]) -> Picture:
    """Draw the image in gray, with pixels of the run's masks alone in red and of those of now alone in blue.

    ``pairs`` are (in the run, now) of segments that go together, None where there is no other. Changes are ringed
    because one pixel is easily overlooked.
    """
    size_hw = _drawn(rgb.shape[:2])
    lost, found = np.zeros(size_hw, bool), np.zeros(size_hw, bool)
    for old, new in pairs:
        before, after = (segment.mask() if segment else np.zeros(rgb.shape[:2], bool) for segment in (old, new))
        lost |= _any_in(before & ~after, size_hw)
        found |= _any_in(after & ~before, size_hw)
    gray = _resized(rgb, size_hw).mean(-1, keepdims=True) * 0.5 + 90
    picture = np.repeat(gray, 3, axis=-1).astype(np.uint8)
    picture[lost], picture[found] = LOST, FOUND
    picture[lost & found] = 255
    image = Image.fromarray(picture)
    pen, reach = ImageDraw.Draw(image), max(3, min(size_hw) // 100)
    places, _ = components(binary_dilation(lost | found, iterations=reach))
    for down, across in find_objects(places)[:RINGS]:
        pen.rectangle((across.start, down.start, across.stop - 1, down.stop - 1), outline="yellow")
    return np.asarray(image)


def _drawn(size_hw: SizeHW) -> SizeHW:
    """The size to draw at: at most so many pixels, and of a small image a multiple, so that names can be read."""
    height, width = size_hw
    scale = math.sqrt(MOST_PIXELS / (height * width))
    if scale >= 1:
        times = max(1, min(LEAST_EDGE // min(size_hw), MOST_EDGE // max(size_hw)))
        return times * height, times * width
    return max(1, int(height * scale)), max(1, int(width * scale))


def _resized(rgb: Picture, size_hw: SizeHW) -> Picture:
    return np.asarray(Image.fromarray(rgb).resize(size_hw[::-1], Image.Resampling.BOX))


def _at_size(segment: Segment, size_hw: SizeHW) -> Segment:
    mask = Image.fromarray(segment.mask()).resize(size_hw[::-1], Image.Resampling.NEAREST)
    code = encode_mask(np.asarray(mask))
    return replace(segment, area=code.area, bbox=code.bbox, counts=code.counts, size=size_hw)


def _any_in(mask: NDArray[np.bool_], size_hw: SizeHW) -> NDArray[np.bool_]:
    """Return the mask at another size. A pixel of a smaller one is set if it holds a set pixel."""
    if size_hw[0] >= mask.shape[0]:
        return np.asarray(Image.fromarray(mask).resize(size_hw[::-1], Image.Resampling.NEAREST))
    rows, columns = np.nonzero(mask)
    small = np.zeros(size_hw, bool)
    small[rows * size_hw[0] // mask.shape[0], columns * size_hw[1] // mask.shape[1]] = True
    return small


def _probability(logits: Tensor, frame: Frame) -> NDArray[np.float32]:
    """Mask probability over the content, [h, w] within a cell, at the aspect ratio of the output."""
    canvas = interpolate(logits[None, None], size=frame.canvas, mode="bilinear", align_corners=False)
    content = canvas[..., : frame.content[0], : frame.content[1]]
    return interpolate(content, size=_cell_hw(frame), mode="bilinear", align_corners=False)[0, 0].sigmoid().numpy()


def _cell_hw(frame: Frame) -> SizeHW:
    """Return height and width of a cell's picture."""
    scale = (CELL - 8) / max(frame.output)
    height, width = (max(1, round(length * scale)) for length in frame.output)
    return height, width


def _heat(values: NDArray[np.float32]) -> Picture:
    """0 to 1 as black, red, yellow, white."""
    ramp = values[..., None] * 3 - np.arange(3)
    return np.rint(ramp.clip(0, 1) * 255).astype(np.uint8)


def _fitting(text: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    while text and pen.textlength(text, font=font) > CELL - 8:
        text = text[:-1]
    return text
