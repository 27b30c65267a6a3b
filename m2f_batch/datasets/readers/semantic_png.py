"""Semantic masks: a folder of one-channel PNGs whose values are classes, beside the images.

8 or 16 bit, or palette, whose indices are the values. ``ignore_index`` is a value of the files;
``do_reduce_labels`` makes 0 ignored and shifts the others by one, as ADE20K wants it. Neither is ever guessed.
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2f_batch.datasets import files
from m2f_batch.datasets.dataset import Category, Dataset, dataset_of
from m2f_batch.datasets.findings import Finding, Report, stop
from m2f_batch.datasets.masks import label_map_rle
from m2f_batch.datasets.names import read_names
from m2f_batch.datasets.readers.masks_beside import pairs
from m2f_batch.errors import DecodeError, UsageError
from m2f_batch.storage.store import ObjectError

_SURELY_IGNORED = (255, 65535)  # as files mark it that no one has told us about
_IGNORED = -1


def read_semantic_png(
    annotations: str,
    images: str | None = None,
    masks: str | None = None,
    *,
    ignore_index: int | None = None,
    do_reduce_labels: bool = False,
    report: Report = stop,
) -> Dataset:
    """The dataset of a folder of class PNGs; ``annotations`` is that folder, or a file of names beside ``masks``.

    Names are by class, after ``do_reduce_labels``; without a file the classes 0 to the highest are "class 0", ...
    Segments are one per class and image, and no category is a thing. Raises UsageError for what cannot be read at all;
    what is wrong in it goes to ``report``.
    """
    file, found = pairs(annotations, images, masks, report)
    names = read_names(file, "data.train") if file else None
    ignored = None if ignore_index is None else ignore_index - do_reduce_labels
    if names is not None:
        names = {number: name for number, name in names.items() if number not in (ignored, -1)}
        if not names or min(names) < 0:
            raise UsageError(f"data.train: {file!r}: names of classes need ids of 0 or more")
    read_one = partial(_read, names=names, ignore_index=ignore_index, do_reduce_labels=do_reduce_labels)
    rows = [*files.numbered(files.rows_of(read_one, found, report))]
    classes = [segment["category"] for row in rows for segment in row["segments"]]
    if names is None:
        names = {number: f"class {number}" for number in range(max(classes, default=-1) + 1)}
    positions = {number: position for position, number in enumerate(names)}
    for row in rows:
        for segment in row["segments"]:
            segment["category"] = positions[segment["category"]]
    return dataset_of([Category(number, name, False) for number, name in names.items()], rows)


def classes_of(values: NDArray[Any], ignore_index: int | None, do_reduce_labels: bool) -> NDArray[np.int64]:
    """Classes of the values of a PNG, [H, W]; -1 where ignored.

    >>> classes_of(np.array([[0, 1, 255]]), 255, True).tolist()
    [[-1, 0, -1]]
    """
    classes = values.astype(np.int64) - do_reduce_labels
    if ignore_index is not None:
        classes[values == ignore_index] = _IGNORED
    return classes


def value_finding(
    codes: dict[int, str], where: str, do_reduce_labels: bool, names: dict[int, str] | None
) -> Finding | None:
    """Values that no class has; without names, one that surely means "ignored"."""
    classes = codes.keys() - {_IGNORED}
    if names is not None:
        unknown = sorted(number + do_reduce_labels for number in classes - names.keys())
        if unknown:
            text = (
                f"has pixels of {unknown[:5]}, and the {len(names)} named classes are {min(names) + do_reduce_labels} "
                f"to {max(names) + do_reduce_labels}; data.ignore_index makes one value ignored, "
                "data.do_reduce_labels the value 0"
            )
            return Finding("unknown-value", where, text)
        return None
    marks = sorted(classes & {value - do_reduce_labels for value in _SURELY_IGNORED})
    if marks:
        value = marks[0] + do_reduce_labels
        text = f"has pixels of {value}, most often no class: set data.ignore_index to {value}, or name all classes"
        return Finding("unknown-value", where, text)
    return None


def _read(
    pair: tuple[str, str], names: dict[int, str] | None, ignore_index: int | None, do_reduce_labels: bool
) -> files.Read:
    """A row whose categories are still classes."""
    image, mask = pair
    try:
        values = files.read_indices(mask)
    except (DecodeError, ObjectError) as error:
        return None, [Finding("unreadable-mask", mask, str(error))]
    codes = label_map_rle(classes_of(values, ignore_index, do_reduce_labels))
    finding = value_finding(codes, mask, do_reduce_labels, names)
    if finding:
        return None, [finding]
    height, width = values.shape
    ignored = codes.pop(_IGNORED, None)
    segments = [{"category": number, "iscrowd": False, "counts": counts} for number, counts in codes.items()]
    return {"uri": image, "height": height, "width": width, "segments": segments, "ignored": ignored}, []
