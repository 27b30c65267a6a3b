"""Writes YOLO's layout: ``data.yaml``, ``images/SPLIT/`` and ``labels/SPLIT/``, with one outline for each object.

An outline runs along the edges of pixels, so a mask of one part without holes is held exactly. Further parts and holes
hang on it by seams without area: exact for readers that fill even-odd, as ours, and as Ultralytics' own joined parts.
"""

import os
import posixpath
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields

import yaml
from pycocotools import mask as coco_mask

from m2f_batch.datasets import files
from m2f_batch.datasets.annotated import AnnotatedImages, AnnotatedSegment
from m2f_batch.datasets.format import Target
from m2f_batch.datasets.masks import Size, as_rle, even_odd_rle, polygons_rle
from m2f_batch.datasets.yolo.lines import parts_of
from m2f_batch.errors import UsageError
from m2f_batch.shapes.contours import Loop, loops_of, one_path
from m2f_batch.storage import uris
from m2f_batch.storage.places import open_store, stat_many, writable_folder
from m2f_batch.vision.masks.rle import decode_mask


@dataclass
class Losses:
    """Counts the masks that YOLO cannot hold.

    Attributes:
        inexact: the IoUs below 1 of masks with what their lines read back as.
        plain: the IoUs of masks of several outlines with the largest of these, holes filled.
    """

    holes: int = 0
    parts: int = 0
    crowds: int = 0
    empty: int = 0
    ignored: int = 0
    inexact: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)

    def __add__(self, other: "Losses") -> "Losses":
        return Losses(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))

    def lines(self) -> list[str]:
        """One sentence per kind of loss, for a person."""
        said = []
        if self.plain:
            mean = sum(self.plain) / len(self.plain)
            said.append(
                f"yolo: {self.parts:,} masks have several parts and {self.holes:,} have holes: one outline with seams, "
                f"exact where it is filled even-odd; by their largest plain outline alone, these {len(self.plain):,} "
                f"masks would keep an IoU of {mean:.3f} on average, {min(self.plain):.3f} at worst"
            )
        if self.inexact:
            worst = min(self.inexact)
            said.append(f"yolo: {len(self.inexact):,} masks read back with an IoU below 1: {worst:.6f} at worst")
        elif not said:
            said.append("yolo: every mask is one plain outline, and reads back with IoU 1")
        else:
            said.append("yolo: every mask reads back with IoU 1 here")
        for number, what in (
            (self.crowds, "crowds are left out: YOLO has no such mark, and they are no objects"),
            (self.empty, "masks without a pixel are left out"),
            (self.ignored, "images have ignored pixels, which YOLO cannot hold: they become background"),
        ):
            if number:
                said.append(f"yolo: {number:,} {what}")
        return said


def write_yolo(splits: Mapping[str, AnnotatedImages], target: Target) -> Iterator[str]:
    """Writes images, label files and, last, ``data.yaml`` below DEST, and yields what YOLO cannot hold.

    Classes are 0, 1, 2, ... in the order of the categories. An image without objects gets an empty label file. Raises
    UsageError before anything is written.
    """
    listed = [image for images in splits.values() for image in images.images(with_segments=False)]
    if any(image.name == image.uri for image in listed):
        problem = "the images lie in more than one store; YOLO needs them in one folder"
        raise UsageError(problem, field=target.option)
    _check_names((image.name for image in listed), target.option)
    writable_folder(target.dest, "DEST", is_new=True)
    _check_there([image.uri for image in listed], target)
    losses = Losses()
    for split, images in splits.items():
        losses += _write_split(images, target.dest, split)
    categories = next(iter(splits.values())).categories  # which all splits share
    names = {number: category.name for number, category in enumerate(categories)}
    _write_settings(names, target.dest, splits)
    yield f"wrote {target.dest}/data.yaml, images/ and labels/; classes are 0 to {len(names) - 1}"
    yield from losses.lines()


def _check_names(names: Iterable[str], option: str) -> None:
    """Raises UsageError where two images would share a label file."""
    seen: dict[str, str] = {}
    for name in names:
        stem = posixpath.splitext(name)[0]
        if seen.setdefault(stem, name) != name:
            problem = f"{seen[stem]!r} and {name!r} would share one label file; rename one of them"
            raise UsageError(problem, field=option)


def _check_there(wanted: list[str], target: Target) -> None:
    missing = [name for name, entry in zip(wanted, stat_many(wanted), strict=True) if entry is None]
    if missing:
        problem = f"{len(missing):,} of {len(wanted):,} images are not there, e.g. {missing[0]!r}"
        raise UsageError(problem, field=target.source, hint=target.hint)


def _write_split(images: AnnotatedImages, dest: str, split: str) -> Losses:
    losses = Losses()
    for image in images.images():
        lines = [line for segment in image.segments if (line := _line(segment, image.size_hw, losses))]
        losses.ignored += image.ignored is not None
        label = f"{dest}/labels/{split}/{posixpath.splitext(image.name)[0]}.txt"
        open_store(dest).write(label, "".join(f"{line}\n" for line in lines).encode())
        _copy(image.uri, f"{dest}/images/{split}/{image.name}")
    return losses


def _write_settings(names: Mapping[int, str], dest: str, splits: Iterable[str]) -> None:
    settings: dict[str, object] = {split: f"images/{split}" for split in splits}
    settings["names"] = dict(names)
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    open_store(dest).write(f"{dest}/data.yaml", text.encode())


def _line(segment: AnnotatedSegment, size_hw: Size, losses: Losses) -> str | None:
    if segment.iscrowd:
        losses.crowds += 1
        return None
    loops = loops_of(decode_mask(segment.counts, size_hw))
    if not loops:
        losses.empty += 1
        return None
    path = [(f"{x / size_hw[1]:.6f}", f"{y / size_hw[0]:.6f}") for x, y in one_path(loops)]
    words = [word.rstrip("0").rstrip(".") for point in path for word in point]
    _measure(segment.counts, loops, [float(word) for word in words], size_hw, losses)
    return " ".join([str(segment.category), *words])


def _measure(counts: str, loops: list[Loop], points: list[float], size_hw: Size, losses: Losses) -> None:
    again = even_odd_rle(parts_of(points, size_hw), size_hw)
    if again != counts:
        losses.inexact.append(_iou(again, counts, size_hw))
    if len(loops) > 1:
        losses.holes += any(loop.is_hole for loop in loops)
        losses.parts += sum(not loop.is_hole for loop in loops) > 1
        outer = (polygons_rle([[*sum(loop.points, ())]], size_hw) for loop in loops if not loop.is_hole)
        largest = max(outer, key=lambda code: int(coco_mask.area(as_rle(code, size_hw))))
        losses.plain.append(_iou(largest, counts, size_hw))


def _iou(first: str, second: str, size_hw: Size) -> float:
    return float(coco_mask.iou([as_rle(first, size_hw)], [as_rle(second, size_hw)], [0])[0, 0])


def _copy(source: str, target: str) -> None:
    """Makes a copy, never a link: training tools rewrite images that they find damaged, and the user's must stay."""
    if uris.root(source) or uris.root(target):
        open_store(target).write(target, files.fetch(source))
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copyfile(source, target)
