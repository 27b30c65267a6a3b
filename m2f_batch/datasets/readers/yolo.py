"""YOLO segmentation: ``data.yaml``, folders ``images/`` and ``labels/``, one line "class x y x y ..." per object.

https://docs.ultralytics.com/datasets/segment/. Coordinates are shares of width and height. An object of several parts
stands in one line, each part closed by its first point again; what lies in an even number of parts is a hole. That is
also what one closed outline with seams between its parts means, as Ultralytics' own converters write it.
"""

import posixpath
from functools import partial
from typing import Any

from m2f_batch.datasets import files
from m2f_batch.datasets.dataset import Category, Dataset, dataset_of
from m2f_batch.datasets.findings import Finding, Report, examples, stop
from m2f_batch.datasets.masks import even_odd_rle
from m2f_batch.datasets.names import names_of, parse_yaml
from m2f_batch.datasets.pixel_cap import size_of
from m2f_batch.errors import DecodeError, UsageError
from m2f_batch.storage import uris
from m2f_batch.storage.places import open_store
from m2f_batch.storage.store import ObjectError

_OUTSIDE = 0.01  # of the image; more is no rounding, but pixels, or another image


def read_yolo(
    annotations: str,
    images: str | None = None,
    masks: str | None = None,
    *,
    split: str = "train",
    report: Report = stop,
) -> Dataset:
    """The dataset of one ``split`` of a ``data.yaml``.

    ``images`` is a folder to use instead of the split's, ``masks`` the folder of its label files, by default where
    ``images`` in its path is ``labels``. An image without a label file has no objects. Category ids are the file's
    classes. Raises UsageError for what cannot be read at all; what is wrong in it goes to ``report``.
    """
    place = uris.normalise(annotations)
    settings = parse_yaml(files.read_text(place, "data.train"), f"data.train: {place!r}")
    if not isinstance(settings, dict) or "names" not in settings:
        raise UsageError(f"data.train: {place!r} is no data.yaml of YOLO: it has no 'names'")
    names = names_of(settings["names"], f"data.train: {place!r}: names")
    sources = [images] if images else _sources(settings, place, split)
    found = [pair for source in sources for pair in _labelled(source, masks, report)]
    present = _present([label for _, label in found])
    alone = [image for image, label in found if label not in present]
    if alone:
        wanted = f", e.g. {found[0][1]!r}" if len(alone) == len(found) else ""
        text = f"{len(alone):,} of {len(found):,} images have no label file{wanted}: no objects ({examples(alone)})"
        report(Finding("unlabelled-image", place, text))
    positions = {number: position for position, number in enumerate(names)}
    read_one = partial(_read, present=present, known=positions)
    rows = files.numbered(files.rows_of(read_one, sorted(dict(found).items()), report))
    return dataset_of([Category(number, name, True) for number, name in names.items()], rows)


def _sources(settings: dict[str, Any], place: str, split: str) -> list[str]:
    """The folders and lists of images of a split."""
    listed = settings.get(split)
    listed = [listed] if isinstance(listed, str) else listed
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) and name for name in listed):
        raise UsageError(f"data.train: {place!r}: {split!r} must be a folder of images, or a list of such")
    base = settings.get("path") or "."
    if not isinstance(base, str):
        raise UsageError(f"data.train: {place!r}: 'path' must be a folder; got {base!r}")
    return [uris.join(uris.join(uris.parent(place), base), name) for name in listed]


def _labelled(source: str, masks: str | None, report: Report) -> list[tuple[str, str]]:
    """(image, its label file) uris of a folder of images, or of a text file that lists them."""
    if source.endswith(".txt"):
        lines = (line.strip() for line in files.read_text(source, "data.train").splitlines())
        images = [uris.join(uris.parent(source), line) for line in lines if line]
        if masks:
            folder = uris.normalise(masks)
            return [(image, f"{folder}/{posixpath.splitext(posixpath.basename(image))[0]}.txt") for image in images]
        return [(image, label_of(image)) for image in images]
    folder = files.folder_of(source, "data.train_images")
    listed = files.list_images(folder, report)
    if masks:
        labels = files.folder_of(masks, "data.train_masks")
        return [(image, uris.join(labels, f"{stem}.txt")) for stem, image in listed.items()]
    return [(image, label_of(image)) for image in listed.values()]


def label_of(image: str) -> str:
    """The label file of an image: the last ``/images/`` of its path becomes ``/labels/``.

    >>> label_of("/data/images/train/a.b.jpg")
    '/data/labels/train/a.b.txt'
    """
    before, found, after = image.rpartition("/images/")
    stem = posixpath.splitext(after)[0]
    return f"{before}/labels/{stem}.txt" if found else f"{stem}.txt"


def _present(labels: list[str]) -> set[str]:
    folders = {uris.parent(label) for label in labels}
    return {entry.uri for folder in folders for entry in open_store(folder).list(folder)} & set(labels)


def _read(pair: tuple[str, str], present: set[str], known: dict[int, int]) -> files.Read:
    image, label = pair
    try:
        height, width = size_hw = size_of(files.fetch(image))
    except (DecodeError, ObjectError) as error:
        return None, [Finding("missing-image", image, f"its size is not known: {error}")]
    row: files.Row = {"uri": image, "height": height, "width": width, "segments": []}
    findings = []
    if label in present:
        try:
            lines = files.fetch(label).decode("utf-8-sig").splitlines()
        except (UnicodeDecodeError, ObjectError) as error:
            return row, [Finding("unreadable-mask", label, str(error))]
        for number, line in enumerate(lines, 1):
            if line.strip():
                parsed = parse_line(line, f"{label}: line {number}", known)
                if isinstance(parsed, Finding):
                    findings.append(parsed)
                    continue
                counts = even_odd_rle(parts_of(parsed[1], size_hw), size_hw)
                row["segments"].append({"category": known[parsed[0]], "iscrowd": False, "counts": counts})
    return row, findings


def parse_line(line: str, where: str, known: dict[int, int]) -> tuple[int, list[float]] | Finding:
    """Class and coordinates of a line, or what is wrong with it."""
    words = line.split()
    try:
        number, points = float(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        return Finding("malformed", where, f"wanted 'class x y x y ...', all numbers; got {line[:60]!r}")
    if number not in known:
        text = f"class {words[0]} is none of the {len(known)} names ({min(known)} to {max(known)}); is it off by one?"
        return Finding("unknown-category", where, text)
    if len(points) == 4:
        return Finding("no-mask", where, "has a box and no outline: these are labels for detection")
    if len(points) < 6 or len(points) % 2:
        return Finding("invalid-mask", where, f"wanted x and y of at least 3 points, not {len(points)} numbers")
    if not all(-_OUTSIDE <= value <= 1 + _OUTSIDE for value in points):  # false for NaN too
        worst = max(points, key=lambda value: abs(value - 0.5))
        return Finding("invalid-mask", where, f"coordinates must be shares of the image, 0 to 1; one is {worst}")
    return int(number), points


def parts_of(points: list[float], size_hw: tuple[int, int]) -> list[list[float]]:
    """The parts of a line, each flat in pixels: a part ends where its first point comes again.

    >>> parts_of([0, 0, 1, 0, 1, 1, 0, 0, 0.5, 0, 1, 0.5, 0, 1], (10, 10))
    [[0, 0, 10, 0, 10, 10], [5.0, 0, 10, 5.0, 0, 10]]
    """
    height, width = size_hw
    parts: list[list[float]] = []
    part: list[float] = []
    first = None
    for point in zip(points[::2], points[1::2], strict=True):
        if first is None:
            first = point
        elif point == first and len(part) >= 6:
            parts.append(part)
            part, first = [], None
            continue
        part += [point[0] * width, point[1] * height]
    return [part for part in [*parts, part] if len(part) >= 6]
