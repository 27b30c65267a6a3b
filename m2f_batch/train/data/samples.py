"""Makes a training example of a row of the dataset: fetch, decode, augment, the masks in view.

An example is a function of the row, its position and the recipe. No neighbor, worker or resume changes it. Its masks
stay RLE until the model's side needs them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from m2f_batch.config.finetune import Resize
from m2f_batch.config.section import MAX_PIXELS
from m2f_batch.config.segment import Task
from m2f_batch.datasets.masks import as_rle, union_rle
from m2f_batch.datasets.pixel_cap import image_of
from m2f_batch.errors import ImageError, Plain, RunError
from m2f_batch.models.preprocess_plan import SizeHW
from m2f_batch.storage.places import open_store
from m2f_batch.storage.retries import Retries
from m2f_batch.storage.store import ObjectError
from m2f_batch.train.data.augment import View, draw_view, jitter_color
from m2f_batch.vision.masks.rle import encode_mask

AT_ONCE = 64 << 20  # pixels of full-size masks that are decoded together


@dataclass(frozen=True)
class Recipe:
    """The settings of examples: ``label_ids`` is the model's label for each category of the dataset.

    Categories with a label below 0 are not learned in this task. Sizes are in pixels, the rest as in ``AugmentConfig``.
    """

    task: Task
    label_ids: tuple[int, ...]
    crop_hw: SizeHW
    scale: tuple[float, float]
    flip: float
    color: float
    seed: int
    max_pixels: int = MAX_PIXELS
    resize: Resize = "fit"


@dataclass(frozen=True)
class Sample:
    """An example: the content of the canvas, uint8 [h, w, 3], and of each object its label and RLE of [h, w].

    ``ignored`` is the RLE of pixels that the loss leaves out, None when there are none.
    """

    position: int
    image_id: int
    uri: str
    image: NDArray[np.uint8]
    labels: NDArray[np.int64]
    counts: tuple[str, ...]
    ignored: str | None

    @property
    def content_hw(self) -> SizeHW:
        """Height and width of the content in pixels."""
        return self.image.shape[0], self.image.shape[1]

    def masks(self) -> NDArray[np.uint8]:
        """Return the masks, uint8 [N, h, w]."""
        return _decoded(self.counts, self.content_hw)

    def ignored_mask(self) -> NDArray[np.uint8] | None:
        """Return the pixels that the loss leaves out, uint8 [h, w]."""
        return None if self.ignored is None else _decoded([self.ignored], self.content_hw)[0]


def make_sample(row: Mapping[str, Any], position: int, recipe: Recipe, retries: Retries | None = None) -> Sample:
    """Make the example at ``position``. Raises RunError for an image that cannot be read, or is not as annotated."""
    image = _pixels(row, recipe.max_pixels, retries or Retries())
    size_hw = (image.shape[0], image.shape[1])
    if size_hw != (row["height"], row["width"]):
        raise RunError(
            f"has {size_hw[1]} x {size_hw[0]} pixels, its annotations are for {row['width']} x "
            f"{row['height']}; m2f-batch lint finds all of these",
            field="data.train",
            value=Plain(row["uri"]),
        )
    rng = np.random.default_rng((recipe.seed, position, row["image_id"] % (1 << 63)))
    view = draw_view(rng, size_hw, recipe.crop_hw, recipe.scale, recipe.flip, recipe.resize)
    seen = jitter_color(rng, view.image(image), recipe.color)
    targets = targets_of(row["segments"], size_hw, recipe.task, recipe.label_ids)
    labels = np.array([label for label, _ in targets], np.int64)
    in_view = [*_seen([code for _, code in targets], view)]
    counts = tuple(code for code in in_view if code is not None)
    kept = np.array([code is not None for code in in_view], bool)
    ignored = None if row["ignored"] is None else next(_seen([row["ignored"]], view))
    return Sample(position, row["image_id"], row["uri"], seen, labels[kept], counts, ignored)


def targets_of(
    segments: Sequence[Mapping[str, Any]], size_hw: SizeHW, task: Task, label_ids: Sequence[int]
) -> list[tuple[int, str]]:
    """Return the targets of an image: (label, RLE of [H, W]).

    Instance and panoptic: every segment of a learned category that is no crowd. Semantic: the union of each category,
    crowds too.
    """
    wanted = [(label_ids[segment["category"]], segment) for segment in segments]
    wanted = [(label, segment) for label, segment in wanted if label >= 0]
    if task != "semantic":
        return [(label, segment["counts"]) for label, segment in wanted if not segment["iscrowd"]]
    by_label: dict[int, list[str]] = {}
    for label, segment in wanted:
        by_label.setdefault(label, []).append(segment["counts"])
    return [(label, union_rle(parts, size_hw)) for label, parts in sorted(by_label.items())]


def _decoded(codes: Sequence[str], size_hw: SizeHW) -> NDArray[np.uint8]:
    """Decode RLE to masks, uint8 [N, H, W]."""
    if not codes:
        return np.zeros((0, *size_hw), np.uint8)
    masks = coco_mask.decode([as_rle(counts, size_hw) for counts in codes])
    return np.moveaxis(masks, 2, 0)


def _seen(codes: Sequence[str], view: View) -> Iterator[str | None]:
    """Yield the part in view of each mask as RLE, None where nothing is in view. Few full-size masks at a time."""
    step = max(1, AT_ONCE // (view.image_hw[0] * view.image_hw[1]))
    for first in range(0, len(codes), step):
        for mask in _decoded(codes[first : first + step], view.image_hw):
            seen = view.mask(mask)
            yield encode_mask(seen).counts if seen.any() else None


def _pixels(row: Mapping[str, Any], max_pixels: int, retries: Retries) -> NDArray[np.uint8]:
    uri = row["uri"]
    try:
        return image_of(retries.run(lambda: open_store(uri).read(uri)), max_pixels)
    except (ObjectError, ImageError) as error:
        raise RunError(
            f"cannot be used ({error}); m2f-batch lint finds all of these", field="data.train", value=Plain(uri)
        ) from None
