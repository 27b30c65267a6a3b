"""Reads semantic masks: a folder of PNGs or TIFFs whose values are classes, beside the images.

One channel of 8 or 16 bits, or palette, whose indices are the values. With ``palette``, pictures whose colors are the
classes. ``ignore_index`` is a value of the files. ``do_reduce_labels`` makes 0 ignored and shifts the others by one, as
ADE20K wants it. Neither is ever guessed.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter

from m2f_batch.datasets import files, names
from m2f_batch.datasets.dataset import Category, Dataset, dataset_of
from m2f_batch.datasets.findings import Finding, Report, examples, stop
from m2f_batch.datasets.masks import label_map_rle, union_rle
from m2f_batch.datasets.png import palette
from m2f_batch.datasets.png.class_values import IGNORED, Scheme, hint_of, scheme_of, value_finding
from m2f_batch.datasets.png.mask_values import read_classes, read_values
from m2f_batch.datasets.png.masks_beside import pairs
from m2f_batch.datasets.png.smooth import Lines, lines_of
from m2f_batch.errors import DecodeError
from m2f_batch.storage.store import ObjectError

_ADE20K = re.compile(r"(^|/)ADE_(train|val|frame)_\d+\.[^/]+$")


@dataclass(frozen=True)
class Values:
    """The rules for values of masks: ``ignore_index`` and ``do_reduce_labels`` of ``data``."""

    ignore_index: int | None
    do_reduce_labels: bool

    def class_of(self, value: int) -> int:
        """The class of a value of a file, before names are looked at."""
        if value == self.ignore_index or (self.do_reduce_labels and value == 0):
            return IGNORED
        return value - self.do_reduce_labels if value >= 0 else IGNORED


def read_semantic_png(
    annotations: str,
    images: str | None = None,
    masks: str | None = None,
    *,
    ignore_index: int | None = None,
    do_reduce_labels: bool = False,
    class_names: names.Given | None = None,
    mask_suffix: str | None = None,
    colors: palette.Given | None = None,
    report: Report = stop,
) -> Dataset:
    """Reads a folder of class PNGs. ``annotations`` is that folder, or a file of names beside ``masks``.

    Names (``class_names``: ``data.names``, else that file, else a file found beside the masks) are by class, after
    ``do_reduce_labels``; without any the classes 0 to the highest are "class 0", ... ``colors`` is ``data.palette``.
    Segments are one per class and image, and no category is a thing. Raises UsageError for what cannot be read at all;
    what is wrong in it goes to ``report``.
    """
    beside = pairs(annotations, images, masks, mask_suffix, report)
    named = None if class_names is None else names.given_names(class_names, "data.names")
    if named is None and beside.file is not None:
        named = names.read_names(beside.file, "data.train")
    by_color = None
    if colors is not None:
        by_color, named = palette.given_palette(colors, named)
    rule = Values(ignore_index, do_reduce_labels)
    beside_colors = (
        None if by_color is not None else next(iter(names.there_beside(beside.folder, palette.BESIDE)), None)
    )
    read_one = partial(_read, by_color=by_color, beside_colors=beside_colors, ignore_index=ignore_index)
    rows = [*files.numbered(files.rows_of(read_one, beside.pairs, report, itemgetter(0)))]
    values = {value for row in rows for value in row["codes"]} - {IGNORED}
    scheme = scheme_of(values, named, beside.folder, beside.suffix, do_reduce_labels, ignore_index, report)
    _note_pictures(rows, beside.folder, report)
    if scheme.names is None and not do_reduce_labels:
        _note_ade20k([image for image, _ in beside.pairs], beside.folder, report)
    hint = hint_of(values, scheme.names)
    kept = [row for row in rows if _settled(row, rule, scheme, hint, report)]
    place = str(masks or annotations)
    classes = sorted({segment["category"] for row in kept for segment in row["segments"]})
    if ignore_index == 255 and values == {0, 255} and not do_reduce_labels:
        text = "outside 255, which data.ignore_index leaves out, there is only the class 0: is 255 the class to learn?"
        report(Finding("one-value", place, text))
    by_class = scheme.names or {number: f"class {number}" for number in range(max(classes, default=-1) + 1)}
    for finding in _smooth(kept, by_class, do_reduce_labels, place):
        report(finding)
    return dataset_of([Category(number, name, False) for number, name in by_class.items()], _final(kept, by_class))


def _note_ade20k(images: Sequence[str], folder: str, report: Report) -> None:
    theirs = sum(bool(_ADE20K.search(image)) for image in images)
    if theirs:
        text = f"{theirs:,} images are called as ADE20K's, whose own masks hold 0 for no label and class ids + 1: "
        report(Finding("label-set", folder, text + "for such files set data.do_reduce_labels"))


def _read(
    pair: tuple[str, str], by_color: dict[int, int] | None, beside_colors: str | None, ignore_index: int | None
) -> files.Read:
    """Returns a row with the masks of all values of the file, ``codes``, and what else of it matters at the end."""
    image, mask = pair
    try:
        if by_color is not None:
            values, is_picture = read_classes(mask, by_color), False
        else:
            values, is_picture = read_values(mask, beside_colors)
    except (DecodeError, ObjectError) as error:
        kind = "unknown-value" if isinstance(error, DecodeError) and error.reason == "UnknownColor" else None
        return None, [Finding(kind or "unreadable-mask", mask, str(error))]
    height, width = values.shape
    lines = lines_of(values, ignore_index) if by_color is None else Lines(frozenset(), frozenset())
    row = {"uri": image, "height": height, "width": width, "codes": label_map_rle(values)}
    return row | {"mask": mask, "lines": lines, "is_picture": is_picture}, []


def _settled(row: files.Row, rule: Values, scheme: Scheme, hint: str, report: Report) -> bool:
    """Makes ``segments``, whose categories are still classes, and ``ignored`` of a row's codes. False: it cannot."""
    size_hw = row["height"], row["width"]
    found: dict[int, list[str]] = {}
    for value, counts in row.pop("codes").items():
        found.setdefault(IGNORED if value in scheme.void else rule.class_of(value), []).append(counts)
    finding = value_finding(found.keys(), row["mask"], rule.do_reduce_labels, scheme.names, hint)
    if finding is not None:
        report(replace(finding, image=row["uri"]))
        return False
    ignored = found.pop(IGNORED, None)
    row["segments"] = [
        {"category": number, "iscrowd": False, "counts": counts} for number, (counts,) in sorted(found.items())
    ]
    row["ignored"] = None if ignored is None else union_rle(ignored, size_hw) if len(ignored) > 1 else ignored[0]
    return True


def _final(rows: Sequence[files.Row], by_class: dict[int, str]) -> Iterator[files.Row]:
    positions = {number: position for position, number in enumerate(by_class)}
    for row in rows:
        segments = [segment | {"category": positions[segment["category"]]} for segment in row["segments"]]
        yield {name: row[name] for name in ("image_id", "uri", "height", "width", "ignored")} | {"segments": segments}


def _note_pictures(rows: Sequence[files.Row], folder: str, report: Report) -> None:
    pictures = [row["mask"] for row in rows if row["is_picture"]]
    if pictures:
        text = f"{len(pictures):,} masks are gray pictures of three equal channels, read as one ({examples(pictures)})"
        report(Finding("gray-picture", folder, text))


def _smooth(
    rows: Sequence[files.Row], by_class: dict[int, str], do_reduce_labels: bool, place: str
) -> Iterator[Finding]:
    """Classes that are nothing but lines between two others in some masks, as smooth resizing leaves them."""
    for number, name in by_class.items():
        value = number + do_reduce_labels
        having = [row for row in rows if any(segment["category"] == number for segment in row["segments"])]
        lined = [row["mask"] for row in having if value in row["lines"].values]
        if not lined:
            continue
        where = f"{place}: class {number} ({name!r})"
        text = f"in {len(lined):,} of the {len(having):,} masks that have it, it is nothing but lines"
        text += f" of a few pixels between a lower and a higher class ({examples(lined)})"
        in_stairs = any(value in row["lines"].in_stairs for row in having)
        yield Finding("smooth-mask" if in_stairs else "thin-class", where, text)
