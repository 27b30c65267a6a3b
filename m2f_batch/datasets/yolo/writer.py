"""A dataset in YOLO's layout: ``data.yaml``, ``images/SIDE/``, ``labels/SIDE/``, one outline per object.

An outline runs along the edges of pixels, so a mask of one part without holes is held exactly. Further parts and holes
hang on it by seams without area: exact for readers that fill even-odd, as ours, and as Ultralytics' own joined parts.
"""

import os
import posixpath
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

import yaml
from pycocotools import mask as coco_mask

from m2f_batch.datasets import files
from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.masks import as_rle, even_odd_rle, polygons_rle
from m2f_batch.datasets.yolo.contours import Loop, loops_of, one_path
from m2f_batch.datasets.yolo.lines import parts_of
from m2f_batch.errors import UsageError
from m2f_batch.storage import uris
from m2f_batch.storage.places import open_store


@dataclass
class Losses:
    """What YOLO cannot hold: numbers of masks; ``plain`` are IoUs of masks with their largest outline, holes filled."""

    holes: int = 0
    parts: int = 0
    crowds: int = 0
    empty: int = 0
    ignored: int = 0
    inexact: list[float] = field(default_factory=list)  # IoUs below 1 of masks with what their line reads back as
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


def check_names(names: Iterable[str]) -> None:
    """Raises UsageError where two images would share a label file."""
    seen: dict[str, str] = {}
    for name in names:
        stem = posixpath.splitext(name)[0]
        if seen.setdefault(stem, name) != name:
            raise UsageError(f"--to yolo: {seen[stem]!r} and {name!r} would share one label file; rename one of them")


def write_side(dataset: Dataset, rows: Iterable[files.Row], base: str, dest: str, side: str) -> Losses:
    """Images and label files of one side below ``dest``; an image without objects gets an empty label file."""
    losses = Losses()
    for row in rows:
        name = uris.below(base, row["uri"])
        lines = [line for segment in row["segments"] if (line := _line(segment, row, losses))]
        losses.ignored += row["ignored"] is not None
        label = f"{dest}/labels/{side}/{posixpath.splitext(name)[0]}.txt"
        open_store(dest).write(label, "".join(f"{line}\n" for line in lines).encode())
        _place(row["uri"], f"{dest}/images/{side}/{name}")
    return losses


def write_settings(dataset: Dataset, dest: str, sides: Iterable[str]) -> None:
    """``data.yaml``, last: classes are 0, 1, 2, ... in the order of the dataset's categories."""
    settings: dict[str, object] = {side: f"images/{side}" for side in sides}
    settings["names"] = {number: category.name for number, category in enumerate(dataset.categories)}
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    open_store(dest).write(f"{dest}/data.yaml", text.encode())


def _line(segment: files.Row, row: files.Row, losses: Losses) -> str | None:
    size_hw = row["height"], row["width"]
    if segment["iscrowd"]:
        losses.crowds += 1
        return None
    loops = loops_of(segment["counts"], size_hw)
    if not loops:
        losses.empty += 1
        return None
    path = [(f"{x / size_hw[1]:.6f}", f"{y / size_hw[0]:.6f}") for x, y in one_path(loops)]
    words = [word.rstrip("0").rstrip(".") for point in path for word in point]
    _measure(segment["counts"], loops, [float(word) for word in words], size_hw, losses)
    return " ".join([str(segment["category"]), *words])


def _measure(counts: str, loops: list[Loop], points: list[float], size_hw: tuple[int, int], losses: Losses) -> None:
    again = even_odd_rle(parts_of(points, size_hw), size_hw)
    if again != counts:
        losses.inexact.append(_iou(again, counts, size_hw))
    if len(loops) > 1:
        losses.holes += any(loop.is_hole for loop in loops)
        losses.parts += sum(not loop.is_hole for loop in loops) > 1
        outer = (polygons_rle([[*sum(loop.points, ())]], size_hw) for loop in loops if not loop.is_hole)
        largest = max(outer, key=lambda code: int(coco_mask.area(as_rle(code, size_hw))))
        losses.plain.append(_iou(largest, counts, size_hw))


def _iou(first: str, second: str, size_hw: tuple[int, int]) -> float:
    return float(coco_mask.iou([as_rle(first, size_hw)], [as_rle(second, size_hw)], [0])[0, 0])


def _place(source: str, target: str) -> None:
    """A copy, never a link: training tools rewrite images that they find damaged, and the user's must stay."""
    if uris.root(source) or uris.root(target):
        open_store(target).write(target, files.fetch(source))
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copyfile(source, target)
