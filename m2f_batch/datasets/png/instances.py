"""Reads instance masks: a folder of one-channel PNGs whose values are the numbers of objects, 0 is background.

The id map says which class an object is of, a JSON of either form. Images go by their name with or without extension:

    {"a.png": {"1": "cell", "2": "nucleus"}, "b.png": {"1": "cell"}}
    {"categories": [{"id": 7, "name": "cell"}], "images": {"a.png": {"1": 7}}}

Without it, every object is of one class: the one that ``data.names`` or a file beside the masks names, else "object".
"""

import posixpath
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np

from m2f_batch.datasets import files, names
from m2f_batch.datasets.dataset import Category, Dataset, dataset_of
from m2f_batch.datasets.findings import Finding, Report, examples, stop
from m2f_batch.datasets.masks import label_map_rle
from m2f_batch.datasets.png.cityscapes import OBJECT_MASKS, THINGS, objects_of
from m2f_batch.datasets.png.mask_values import read_values
from m2f_batch.datasets.png.masks_beside import pairs
from m2f_batch.datasets.png.smooth import lines_of
from m2f_batch.errors import DecodeError, UsageError
from m2f_batch.inputs.listing import IMAGE_EXTENSIONS
from m2f_batch.storage.store import ObjectError

_FORM = 'wanted {"a.png": {"1": "cell"}}, or "categories" and "images" {"a.png": {"1": 7}}'
_Objects = dict[str, dict[int, int]]  # by image name without extension: category ids by object


def read_instance_png(
    annotations: str,
    images: str | None = None,
    masks: str | None = None,
    *,
    ignore_index: int | None = None,
    class_names: names.Given | None = None,
    mask_suffix: str | None = None,
    report: Report = stop,
) -> Dataset:
    """Reads a folder of object PNGs. ``annotations`` is that folder, or the id map beside ``masks``.

    ``ignore_index`` is a value of the files, ``class_names`` is ``data.names``: of the numbers or names in the id map.
    Raises UsageError for what cannot be read at all. What is wrong in it goes to ``report``.
    """
    beside = pairs(annotations, images, masks, mask_suffix, report, OBJECT_MASKS)
    named = None if class_names is None else names.given_names(class_names, "data.names")
    is_cityscapes = beside.suffix in OBJECT_MASKS and beside.file is None and named is None
    if is_cityscapes:
        categories, objects = [*THINGS], None
        text = f"values are Cityscapes' instanceIds: objects are of its {len(THINGS)} classes of things"
        report(Finding("label-set", beside.folder, text))
    elif beside.file is not None:
        categories, objects = _read_map(beside.file, named)
    else:
        categories, objects = [_only_class(named, beside.folder, report)], None
    positions = {category.id: position for position, category in enumerate(categories)}
    read_one = partial(_read, objects=objects, positions=positions, ignore_index=ignore_index)
    if is_cityscapes:
        read_one = partial(_read_cityscapes, ignore_index=ignore_index)
    rows = [*files.numbered(files.rows_of(read_one, beside.pairs, report, itemgetter(0)))]
    smooth = [row["mask"] for row in rows if row.pop("in_stairs")]
    if smooth:
        text = "have objects that are nothing but lines of a few pixels between the numbers of others"
        found = f"{len(smooth):,} of {len(rows):,} masks {text} ({examples(smooth)})"
        report(Finding("smooth-mask", str(masks or annotations), found))
    are_binary = [row.pop("is_binary") for row in rows]
    if are_binary and all(are_binary):
        text = "all masks hold 0 and 255 only: whatever is drawn in an image counts as one object"
        report(Finding("one-value", str(masks or annotations), text))
    return dataset_of(categories, rows)


def _only_class(named: dict[int, str] | None, folder: str, report: Report) -> Category:
    """Gives the one class of objects that no id map tells apart. 0 is background whatever it is called."""
    beside = names.names_beside(folder) if named is None else None
    found = beside[1] if beside is not None else named
    if found is None:
        return Category(1, "object", True)
    real = {number: name for number, name in found.items() if number > 0} if len(found) > 1 else found
    if len(real) == 1:
        ((number, name),) = real.items()
        if beside is not None:
            report(Finding("names-beside", folder, f"objects are of the class {name!r}, as {beside[0]} says"))
        return Category(number, name, True)
    text = f"{len(real):,} classes, and no id map says of which of them an object is: data.train takes it"
    if beside is None:
        raise UsageError(text, field="data.names")
    report(Finding("names-beside", folder, f"{beside[0]} names {text}; objects are of one class"))
    return Category(1, "object", True)


def _read_map(file: str, named: dict[int, str] | None) -> tuple[list[Category], _Objects]:
    document, where = files.read_json(file, "data.train"), f"data.train: {file!r}"
    if not isinstance(document, dict):
        raise UsageError(_FORM, field=where)
    is_full = isinstance(document.get("categories"), list)
    images = document.get("images") if is_full else document
    if not isinstance(images, dict) or not all(isinstance(objects, dict) for objects in images.values()):
        raise UsageError(_FORM, field=where)
    if named is not None:
        categories = [Category(number, name, True) for number, name in named.items() if number >= 0]
    else:
        categories = _declared(document["categories"], where) if is_full else _by_name(images, where)
    known: dict[Any, int] = {category.id: category.id for category in categories if is_full or named is not None}
    if not is_full:
        known |= {category.name: category.id for category in categories}
    return categories, {_stem(name): _numbers(objects, known, f"{where}: {name}") for name, objects in images.items()}


def _stem(name: str) -> str:
    stem, extension = posixpath.splitext(name)
    return stem if extension.removeprefix(".").lower() in IMAGE_EXTENSIONS else name


def _declared(entries: list[Any], where: str) -> list[Category]:
    for entry in entries:
        if not isinstance(entry, dict) or type(entry.get("id")) is not int or not files.is_text(entry.get("name")):
            raise UsageError(
                f"each of 'categories' needs an integer 'id' and a text 'name'; got {entry!r}", field=where
            )
    categories = [Category(entry["id"], entry["name"].strip(), bool(entry.get("isthing", 1))) for entry in entries]
    if len({category.id for category in categories}) < len(categories):
        raise UsageError("an id comes twice in 'categories'", field=where)
    return categories


def _by_name(images: dict[str, dict[str, Any]], where: str) -> list[Category]:
    names = {name for objects in images.values() for name in objects.values() if files.is_text(name)}
    if not names:
        raise UsageError(f"no object has a name; {_FORM}", field=where)
    return [Category(number, name, True) for number, name in enumerate(sorted(names), 1)]


def _numbers(objects: dict[str, Any], known: dict[Any, int], where: str) -> dict[int, int]:
    for number, category in objects.items():
        if not number.isdecimal() or not isinstance(category, int | str) or category not in known:
            raise UsageError(
                f": {category!r}: objects are whole numbers, of a known category", field=where, value=number
            )
    return {int(number): known[category] for number, category in objects.items()}


def _read(
    pair: tuple[str, str], objects: _Objects | None, positions: dict[int, int], ignore_index: int | None
) -> files.Read:
    image, mask = pair
    try:
        values, _ = read_values(mask)
    except (DecodeError, ObjectError) as error:
        return None, [Finding("unreadable-mask", mask, str(error))]
    codes = label_map_rle(values)
    is_binary = {*codes} == {0, 255}
    ignored = None if ignore_index is None else codes.pop(ignore_index, None)
    codes.pop(0, None)
    findings, segments = [], []
    classes = dict.fromkeys(codes, next(iter(positions))) if objects is None else _of_image(mask, objects)
    for number, counts in codes.items():
        if number in classes:
            segments.append({"category": positions[classes[number]], "iscrowd": False, "counts": counts})
    unknown = sorted(codes.keys() - classes.keys())
    if unknown:
        text = f"has objects {unknown[:5]}, which the id map does not name; data.ignore_index makes one value ignored"
        findings.append(Finding("unknown-value", mask, text))
    for number in sorted(classes.keys() - codes.keys()):
        findings.append(Finding("missing-segment", mask, f"has no pixel of the object {number} of the id map"))
    height, width = values.shape
    row = {"uri": image, "height": height, "width": width, "segments": segments, "ignored": ignored}
    return row | {"is_binary": is_binary, "mask": mask, "in_stairs": lines_of(values, ignore_index).in_stairs}, findings


def _read_cityscapes(pair: tuple[str, str], ignore_index: int | None) -> files.Read:
    image, mask = pair
    try:
        values, _ = read_values(mask)
    except (DecodeError, ObjectError) as error:
        return None, [Finding("unreadable-mask", mask, str(error))]
    height, width = size_hw = values.shape
    row = {"uri": image, "height": height, "width": width, "is_binary": False, "mask": mask, "in_stairs": ()}
    codes = label_map_rle(values if ignore_index is None else np.where(values == ignore_index, 0, values))
    return row | objects_of(codes, size_hw), []


def _of_image(mask: str, objects: _Objects) -> dict[int, int]:
    """Returns the objects of the id map by the longest end of the mask's path that it has."""
    parts = _stem(mask).split("/")
    tails = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((objects[tail] for tail in tails if tail in objects), {})
