"""Reads labelme: one JSON per image, with ``shapes`` of a label and points. https://github.com/wkentaro/labelme

Also as X-AnyLabeling writes it: https://github.com/CVHub520/X-AnyLabeling. Shapes with one label and one ``group_id``
are parts of one object. ``__ignore__`` becomes ``ignored``, ``_background_`` is dropped. Polygons are filled as
pycocotools does it, which labelme's own VOC converter does not. A shape is read whole or is a finding: points that its
kind has no use for are never left out.
"""

import base64
import binascii
import io
import math
import posixpath
from collections.abc import Iterator
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
from PIL import Image

from m2f_batch.datasets import files
from m2f_batch.datasets.coco.shapes import point_of
from m2f_batch.datasets.dataset import Category, Dataset, dataset_of
from m2f_batch.datasets.findings import Finding, Report, examples, stop
from m2f_batch.datasets.masks import area_and_box, is_size, polygon_fault, polygons_rle, union_rle
from m2f_batch.datasets.names import read_names
from m2f_batch.datasets.pixel_cap import size_of
from m2f_batch.errors import DecodeError, UsageError
from m2f_batch.inputs.listing import IMAGE_EXTENSIONS
from m2f_batch.inputs.names.resolved import images_around
from m2f_batch.storage import uris
from m2f_batch.storage.store import ObjectError
from m2f_batch.vision.masks.rle import encode_mask

IGNORE, BACKGROUND = "__ignore__", "_background_"
_WITHOUT_AREA = ("line", "linestrip", "point", "points")
# the fewest and the most points of each shape that is read. Those of four corners but "rectangle" may be turned
_POINTS: dict[str, tuple[int, int | None]] = {
    "polygon": (3, None),
    "rectangle": (2, None),
    "circle": (2, 2),
    "mask": (2, 2),
    "rotation": (4, 4),
    "quadrilateral": (4, 4),
    "oriented_rectangle": (4, 4),
}
_NO_LABELME = "is no labelme JSON: it needs a list 'shapes', and a text 'imagePath' or the name of its image"
_CORNER = 1.0  # pixels that a corner of an upright rectangle may lie beside it, as tools round
_Entry = dict[str, Any]


def read_labelme(place: str, images: str | None = None, *, report: Report = stop) -> Dataset:
    """Reads a folder of labelme JSONs, or one of them.

    ``imagePath`` is relative to its JSON, or a name in ``images``. Where it is not there, the image is the one with the
    name of the JSON. Categories are those of ``labels.txt`` in the folder or beside it, with the ids that labelme gives
    them, else the labels in use by name, with ids from 1. Raises UsageError for what cannot be read at all. What is
    wrong in it goes to ``report``.
    """
    listed = [*files.list_files(place, ["json"], report).values()] if files.is_folder(place, "data.train") else [place]
    if not listed:
        raise UsageError("has no JSON", field="data.train", value=place)
    entries = _only_labelme([*files.rows_of(_parsed, listed, report)], place, report)
    shapes = [shape["label"] for entry in entries for shape in entry["shapes"]]
    names = _declared(place) or dict(enumerate(sorted({*shapes}), 1))
    categories = [Category(number, name, True) for number, name in names.items() if name not in (IGNORE, BACKGROUND)]
    _note_skipped(entries, place, report)
    known = {category.name: position for position, category in enumerate(categories)}
    entries = _with_images(entries, listed, place, images, report)
    return dataset_of(
        categories, files.numbered(files.rows_of(partial(_read, known=known), entries, report, itemgetter("image")))
    )


def _only_labelme(parsed: list[_Entry], place: str, report: Report) -> list[_Entry]:
    """Returns the entries of labelme. Other JSONs, such as a list of classes, are passed over and counted."""
    entries = [entry for entry in parsed if entry["is_labelme"]]
    others = [entry["json"] for entry in parsed if not entry["is_labelme"]]
    if others and entries:
        text = f"{len(others):,} JSONs have no 'shapes' and no 'imagePath', and are left out ({examples(others)})"
        report(Finding("spare-file", place, text))
    for uri in [] if entries else others:
        report(Finding("malformed", uri, _NO_LABELME))
    return entries


def _with_images(
    entries: list[_Entry], listed: list[str], place: str, images: str | None, report: Report
) -> list[_Entry]:
    """Gives the entries with the uri of their image. Those that have none are reported instead."""
    folders = [uris.parent(entry["json"]) for entry in entries]
    is_folder = files.is_folder(place, "data.train")
    top = images_around(place) if is_folder else images_around(uris.parent(place))
    if images:
        top = files.folder_of(images, "data.train_images")
        folders = [top] * len(entries)
    names = [entry["imagePath"] for entry in entries]
    if images:  # a name there, whatever its folder was
        names = [posixpath.basename(name.replace("\\", "/")) for name in names]
    found = files.find_named(names, top, report, lambda at: entries[at]["json"], bases=folders)
    own = top if images else place if is_folder else uris.parent(place)  # around it may be anything, and a lot
    there = files.list_all(own, IMAGE_EXTENSIONS)
    elsewhere = [uri for uri in found if uri is not None and not uri.startswith(f"{own.rstrip('/')}/")]
    taken = _by_json(entries, folders, found, [*there, *elsewhere], place, report)
    if is_folder:
        _note_unlabeled(taken, listed, there, place, report)
    return taken


def _by_json(
    entries: list[_Entry], folders: list[str], found: list[str | None], there: list[str], place: str, report: Report
) -> list[_Entry]:
    """Takes the image with the name of its JSON where there is none by ``imagePath``, as X-AnyLabeling does."""
    known, beside = {*there}, {posixpath.splitext(uri)[0]: uri for uri in reversed(there)}
    taken, renamed = list[_Entry](), list[str]()
    for entry, folder, uri in zip(entries, folders, found, strict=True):
        other = None if uri in known else beside.get(uris.join(folder, _stem(entry["json"])))
        if other is not None:
            renamed.append(f"{entry['json']}: {posixpath.basename(other)!r} for {entry['imagePath']!r}")
        elif uri not in known and entry["has_data"]:
            text = f"its image {entry['imagePath']!r} is not there; the JSON itself holds it as 'imageData': write it "
            text += "to an image file of that name, as labelme_export_json does"
            report(Finding("missing-image", entry["json"], text))
            continue
        if other or uri is not None:
            taken.append(entry | {"image": other or uri})
    if renamed:
        text = (
            f"{len(renamed):,} of {len(entries):,} images are not there by their 'imagePath', and are those with the "
        )
        report(Finding("other-name", place, f"{text}name of their JSON ({renamed[0]})"))
    return taken


def _note_unlabeled(entries: list[_Entry], listed: list[str], there: list[str], place: str, report: Report) -> None:
    """Counts the images without a JSON, in the folders where others have one."""
    labeled = {posixpath.splitext(entry["image"])[0] for entry in entries}
    folders = {posixpath.dirname(stem) for stem in labeled}
    here = [uri for uri in there if posixpath.dirname(uri) in folders]
    written = {_stem(uri) for uri in listed}  # those that cannot be read, too, which is said of them
    alone = [uri for uri in here if posixpath.splitext(uri)[0] not in labeled and _stem(uri) not in written]
    if alone:
        text = f"{len(alone):,} of {len(here):,} images have no JSON and are left out ({examples(alone)})"
        report(Finding("unlabelled-image", place, text))


def _stem(uri: str) -> str:
    return posixpath.splitext(posixpath.basename(uri))[0]


def _declared(place: str) -> dict[int, str] | None:
    found = (f"{folder}/labels.txt" for folder in (place, uris.parent(place)))
    file = next((name for name in found if files.exists(name)), None)
    return read_names(file, "data.train") if file else None


def _note_skipped(entries: list[_Entry], place: str, report: Report) -> None:
    kinds = [_kind(shape) for entry in entries for shape in entry["shapes"]]
    for kind in _WITHOUT_AREA:
        if kind in kinds:
            text = f"{kinds.count(kind):,} shapes of type {kind!r} have no area and are left out"
            report(Finding("skipped-shape", place, text))


def _kind(shape: _Entry) -> str:
    return shape.get("shape_type") or "polygon"  # as it was before labelme had other shapes


def _parsed(uri: str) -> files.Read:
    """Reads the used values of a JSON alone, because the image that it may hold is large."""
    try:
        document = files.read_json(uri, "data.train")
    except UsageError as error:
        return None, [Finding("malformed", uri, str(error))]
    shapes, name = (document.get(key) if isinstance(document, dict) else None for key in ("shapes", "imagePath"))
    if shapes is None and name is None:
        return {"json": uri, "is_labelme": False}, []
    if not isinstance(shapes, list):
        return None, [Finding("malformed", uri, _NO_LABELME)]
    used: list[_Entry] = []
    findings = []
    for number, shape in enumerate(shapes):
        label = shape.get("label") if isinstance(shape, dict) else None
        label = str(label) if type(label) in (int, float) else label  # classes that are called by numbers
        if isinstance(label, str) and files.is_text(label) and isinstance(_kind(shape), str):
            used.append(shape | {"label": label.strip(), "points": _points(shape.get("points"))})
        else:
            text = "needs a text 'label', and a text 'shape_type' or none"
            findings.append(Finding("malformed", f"{uri}: shapes[{number}]", text))
    height, width = document.get("imageHeight"), document.get("imageWidth")
    entry = {
        "json": uri,
        "is_labelme": True,
        "imagePath": name if files.is_text(name) else _stem(uri),
        "has_data": bool(document.get("imageData")),
        "size_hw": (height, width) if is_size(height, width) else None,
        "shapes": used,
    }
    return entry | {"findings": findings}, []  # they are reported with the image, as its own


def _points(points: Any) -> Any:
    """Reads points [x, y], also of objects and texts, and gives any other value as it is."""
    found = [point_of(point) for point in points] if isinstance(points, list) else [None]
    return points if None in found else found


def _read(entry: _Entry, known: dict[str, int]) -> files.Read:
    image = entry["image"]
    try:
        size_hw = entry["size_hw"] or size_of(files.fetch(image))
    except (DecodeError, ObjectError) as error:
        return None, [Finding("missing-image", entry["json"], f"has no imageHeight and imageWidth; {image}: {error}")]
    findings: list[Finding] = [*entry["findings"]]
    objects: dict[tuple[str, Any], list[str]] = {}
    for number, shape in enumerate(entry["shapes"]):
        if _kind(shape) in _WITHOUT_AREA or shape["label"] == BACKGROUND:
            continue
        where = f"{entry['json']}: shapes[{number}] ({shape['label']!r})"
        found = [*shape_findings(shape, where, known)]
        counts = None if found else _shape_mask(shape, size_hw, where)
        findings += [*found, counts] if isinstance(counts, Finding) else found
        if isinstance(counts, str):
            group = shape.get("group_id")
            key = (shape["label"], ("alone", number) if group is None else group)
            objects.setdefault(key, []).append(counts)
    ignored = [counts for (label, _), codes in objects.items() if label == IGNORE for counts in codes]
    segments = [
        {"category": known[label], "iscrowd": False, "counts": _joined(codes, size_hw)}
        for (label, _), codes in objects.items()
        if label != IGNORE
    ]
    height, width = size_hw
    row: files.Row = {"uri": image, "height": height, "width": width, "segments": segments}
    return row | {"ignored": _joined(ignored, size_hw) if ignored else None}, findings


def _joined(codes: list[str], size_hw: tuple[int, int]) -> str:
    return codes[0] if len(codes) == 1 else union_rle(codes, size_hw)


def shape_findings(shape: _Entry, where: str, known: dict[str, int]) -> Iterator[Finding]:
    """Finds what keeps a shape from being a mask."""
    if shape["label"] != IGNORE and shape["label"] not in known:
        yield Finding("unknown-category", where, f"labels.txt does not have it; it has {', '.join(known)}")
    kind, points = _kind(shape), shape.get("points")
    if kind not in _POINTS:
        yield Finding("malformed", where, f"shape_type {kind!r} is not known; read are {', '.join(_POINTS)}")
        return
    pairs = points if isinstance(points, list) else []
    fewest, most = _POINTS[kind]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs) or len(pairs) < fewest:
        yield Finding("invalid-mask", where, f"a {kind} needs at least {fewest} points [x, y]; it has {len(pairs)}")
        return
    if most is not None and len(pairs) > most:
        yield Finding("invalid-mask", where, f"a {kind} has {most} points; it has {len(pairs)}: draw it as a polygon")
        return
    # two points are no polygon, but their numbers are held to the same rules
    fault = polygon_fault([value for pair in [*pairs, *pairs[:1]] for value in pair])
    if not isinstance(shape.get("group_id"), int | str | None):
        yield Finding("malformed", where, f"group_id must be a number; got {shape['group_id']!r}")
    if fault:
        yield Finding("invalid-mask", where, fault)
    elif kind == "rectangle" and len(pairs) > 2 and not _is_upright(pairs):
        text = f"its {len(pairs)} points are not the corners of an upright rectangle: its shape_type is 'polygon'"
        yield Finding("invalid-mask", where, text)
    elif kind == "mask" and _bitmap(shape) is None:
        yield Finding("invalid-mask", where, "its 'mask' is no PNG of the size that its points span")


def _is_upright(points: list[list[float]]) -> bool:
    """Says whether points are the corners of an upright rectangle, each at least once, in any order."""
    edges = [(min(values), max(values)) for values in zip(*points, strict=True)]
    found = set()
    for point in points:
        corner = tuple(abs(value - low) > abs(value - high) for value, (low, high) in zip(point, edges, strict=True))
        if any(abs(value - edge[at]) > _CORNER for value, edge, at in zip(point, edges, corner, strict=True)):
            return False
        found.add(corner)
    return len(found) == 4


def _shape_mask(shape: _Entry, size_hw: tuple[int, int], where: str) -> str | Finding:
    """The mask of a shape without findings, or why it has none."""
    if _kind(shape) == "mask":
        counts = _pasted(shape, size_hw)
    else:
        counts = polygons_rle([outline_of(_kind(shape), shape["points"])], size_hw)
    if not area_and_box(counts, size_hw)[0]:
        return Finding("invalid-mask", where, f"this {_kind(shape)} has no pixel of the image: no area, or beside it")
    return counts


def outline_of(kind: str, points: list[list[float]]) -> list[float]:
    """Gives a shape as a flat polygon. A circle (its center, a point on it) has as many sides as in labelme2coco.

    A rectangle is given by two opposite corners, or by all four.

    >>> outline_of("rectangle", [[0, 0], [2, 1]])
    [0, 0, 2, 0, 2, 1, 0, 1]
    """
    if kind == "rectangle":
        (x0, x1), (y0, y1) = ((min(values), max(values)) for values in zip(*points, strict=True))
        return [x0, y0, x1, y0, x1, y1, x0, y1]
    if kind == "circle":
        (x, y), (on_x, on_y) = points
        radius = math.hypot(on_x - x, on_y - y)
        corners = max(int(math.pi / math.acos(1 - 1 / radius)), 12) if radius > 1 else 12
        angles = [2 * math.pi * corner / corners for corner in range(corners)]
        return [value for angle in angles for value in (x + radius * math.sin(angle), y + radius * math.cos(angle))]
    return [value for point in points for value in point]


def _bitmap(shape: _Entry) -> np.ndarray[Any, Any] | None:
    """Decodes a shape that is a bitmap to bool [h, w]. Its points are the first and the last pixel of its box."""
    (x0, y0), (x1, y1) = shape["points"]
    try:
        data = base64.b64decode(shape.get("mask") or "", validate=True)
        bitmap = np.asarray(Image.open(io.BytesIO(data), formats=["PNG"]).convert("L")) > 0
    except (binascii.Error, TypeError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return bitmap if bitmap.shape == (int(y1) - int(y0) + 1, int(x1) - int(x0) + 1) else None


def _pasted(shape: _Entry, size_hw: tuple[int, int]) -> str:
    bitmap = _bitmap(shape)
    assert bitmap is not None, "checked by shape_findings"
    (x, y), mask = (int(value) for value in shape["points"][0]), np.zeros(size_hw, bool)
    left, top = max(x, 0), max(y, 0)
    part = mask[top : y + bitmap.shape[0], left : x + bitmap.shape[1]]
    part |= bitmap[top - y :, left - x :][: part.shape[0], : part.shape[1]]
    return encode_mask(mask).counts
