"""Defines annotated images as writers of formats take them: a dataset is one, and so is a run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from pycocotools import mask as coco_mask

from m2f_batch.config.segment import Task
from m2f_batch.datasets.dataset import Category, Dataset
from m2f_batch.datasets.files import Row
from m2f_batch.datasets.masks import Size, as_rle
from m2f_batch.storage import uris


class AnnotatedSegment(NamedTuple):
    """A segment with its mask, as compressed COCO RLE.

    Attributes:
        category: the index of its category.
        area: the pixels of the mask.
        bbox: the box of the mask, [x, y, w, h] in pixels.
        score: the model's score, None where people have drawn it.
    """

    category: int
    counts: str
    area: int
    bbox: Sequence[float]
    iscrowd: bool = False
    score: float | None = None


class AnnotatedImage(NamedTuple):
    """An image and its segments.

    Attributes:
        id: the id in what is written.
        uri: the place of the image.
        name: the path of the image below the folder of all images, or the uri where it lies elsewhere.
        size_hw: height and width in pixels, after EXIF orientation.
        ignored: the RLE of the pixels that are neither a class nor background, if any.
    """

    id: int | str
    uri: str
    name: str
    size_hw: Size
    segments: tuple[AnnotatedSegment, ...] = ()
    ignored: str | None = None


class AnnotatedImages(Protocol):
    """Annotated images that are written in a format.

    Attributes:
        task: the task of the run, None for a dataset.
        about: the ``info`` of a COCO JSON.
        entries: the categories as a COCO JSON has them, each with ``id`` and ``name``.
    """

    @property
    def categories(self) -> Sequence[Category]: ...
    @property
    def task(self) -> Task | None: ...
    @property
    def about(self) -> Mapping[str, Any]: ...
    @property
    def entries(self) -> Sequence[Mapping[str, Any]]: ...
    def images(self, *, with_segments: bool = True) -> Iterator[AnnotatedImage]:
        """Returns the images by uri, a few of them at a time in memory. Each call gives all of them anew."""
        ...


@dataclass(frozen=True)
class DatasetImages:
    """The annotated images of some ``rows`` of a dataset, which lie below the folder ``base``."""

    dataset: Dataset
    rows: Sequence[Row]
    base: str
    task: Task | None = None

    @property
    def categories(self) -> Sequence[Category]:
        """The categories of the dataset."""
        return self.dataset.categories

    @property
    def about(self) -> Mapping[str, Any]:
        """The ``info`` of a COCO JSON."""
        return {"description": "converted by m2f-batch"}

    @property
    def entries(self) -> Sequence[Mapping[str, Any]]:
        """The categories with ``isthing``, which ``read_coco`` reads back."""
        return [
            {"id": one.id, "name": one.name, "supercategory": one.name, "isthing": int(one.isthing)}
            for one in self.categories
        ]

    def images(self, *, with_segments: bool = True) -> Iterator[AnnotatedImage]:
        """Yields the images in the order of ``rows``."""
        for row in self.rows:
            uri, size_hw = row["uri"], (row["height"], row["width"])
            name = uris.below(self.base, uri) if self.base else uri
            segments = tuple(_segments(row, size_hw)) if with_segments else ()
            yield AnnotatedImage(row["image_id"], uri, name, size_hw, segments, row["ignored"])


def _segments(row: Row, size_hw: Size) -> Iterator[AnnotatedSegment]:
    rles = [as_rle(segment["counts"], size_hw) for segment in row["segments"]]
    areas, boxes = coco_mask.area(rles), coco_mask.toBbox(rles)
    for segment, area, box in zip(row["segments"], areas, boxes, strict=True):
        iscrowd = bool(segment["iscrowd"])
        yield AnnotatedSegment(segment["category"], segment["counts"], int(area), box.tolist(), iscrowd)
