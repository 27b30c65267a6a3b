"""Reads COCO instances: one JSON with ``images``, ``categories`` and ``annotations``.

https://cocodataset.org/#format-data. Polygons, compressed and uncompressed RLE, crowds and category ids with gaps are
read. An image may carry ``ignored``, an RLE of pixels that are no class, which is no key of COCO's and which
``convert`` writes. An annotation with ``ignore``, which mmdetection leaves out, is such pixels, too. Masks become RLE
one annotation at a time.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from m2f_batch.datasets import files
from m2f_batch.datasets.coco.boxes import contradiction, stated_by
from m2f_batch.datasets.coco.images_and_categories import (
    Entry,
    Heads,
    Size,
    flag,
    image_uris,
    meant_categories,
    parts_of,
    read_heads,
    unknown_category,
    whole,
)
from m2f_batch.datasets.coco.shapes import Fault, Shape, read_shape
from m2f_batch.datasets.dataset import Dataset, Stated, dataset_of
from m2f_batch.datasets.findings import Finding, Report, examples, stop
from m2f_batch.datasets.masks import area_and_box, union_rle, without_rle
from m2f_batch.messages.reading_progress import with_progress


class Taken(NamedTuple):
    """An annotation that is used: ``category`` is the place of its category."""

    image_id: int
    category: int
    iscrowd: bool
    is_ignored: bool
    shape: Shape
    size_hw: Size


class _Segment(NamedTuple):
    category: int
    iscrowd: bool
    is_ignored: bool
    counts: str


def read_coco(place: str, images: str | None = None, *, report: Report = stop) -> Dataset:
    """Reads a COCO instances JSON. File names are resolved against ``images``, else the folder of the JSON.

    Raises UsageError for a file that is none. What is wrong in it goes to ``report``.
    """
    document = files.read_json(place, "data.train")
    listed, entries, categories = parts_of(document, place)
    del document
    heads = read_heads(listed, categories, place, report)
    named = image_uris(heads, images, place, report)
    _note_ids(entries, place, report)
    segments = _segments(entries, heads, named, place, report)
    ours = [one for several in segments.values() for one in several]
    kept, moved = meant_categories(heads.categories, {one.category for one in ours}, place, report)
    ignored = sum(one.is_ignored for one in ours)
    if ignored:
        text = f"{ignored:,} annotations have 'ignore', with which mmdetection leaves them out: their pixels count for"
        report(Finding("ignored-object", place, f"{text} nothing"))
    return dataset_of(kept, _rows(heads, segments, named, moved, place, report))


def _segments(
    entries: list[Any], heads: Heads, named: Mapping[int, str], place: str, report: Report
) -> dict[int, list[_Segment]]:
    """Gives the masks of annotations by image, and empties ``entries`` to save memory."""
    segments: dict[int, list[_Segment]] = {}
    off, dropped = list[str](), list[str]()
    known = heads.positions()
    entries.reverse()
    for number in with_progress(range(len(entries)), len(entries), "annotations"):
        entry = entries.pop()  # a large file's polygons go as their RLE comes
        where = f"{place}: annotations[{number}]"
        taken = taken_entry(entry, where, heads, known)
        if isinstance(taken, Finding):
            report(heads.of_entry(taken, entry))
        if not isinstance(taken, Taken) or taken.image_id not in named:
            continue
        counts = taken.shape.counts(taken.size_hw)
        dropped += [where] * taken.shape.dropped
        segments.setdefault(taken.image_id, []).append(
            _Segment(taken.category, taken.iscrowd, taken.is_ignored, counts)
        )
        fault = contradiction(stated_by(entry, where), *area_and_box(counts, taken.size_hw))
        off += [f"{where}: {fault}"] if fault else []
    if dropped:
        text = f"{len(dropped):,} parts of masks have fewer than 3 points, so no area, and are left out ({dropped[0]})"
        report(Finding("dropped-part", place, text))
    if off:
        report(Finding("box-mismatch", place, f"{len(off):,} boxes or areas are not those of their masks ({off[0]})"))
    return segments


def taken_entry(entry: Any, where: str, heads: Heads, known: Mapping[int, int]) -> Taken | Finding | None:
    """Gives the used values of an annotation, or what keeps it from being used.

    It is None where the fault is one of its image, which is reported already.

    ``known`` has the places of categories by id.
    """
    if not isinstance(entry, dict):
        return Finding("malformed", where, "is no JSON object")
    where = f"{where} (id {entry.get('id')!r})"
    image_id, category = heads.image_id(entry.get("image_id")), heads.category_id(entry.get("category_id"))
    if heads.is_refused(entry.get("image_id")):
        return None
    if image_id is None:
        return Finding("unlisted-image", where, f"image_id {entry.get('image_id')!r} is not in 'images'")
    if category is None or category not in known:
        return unknown_category(entry.get("category_id"), where, dict(known))
    flags = {key: flag(entry.get(key)) for key in ("iscrowd", "ignore")}
    for key, value in flags.items():
        if value is None:
            return Finding("malformed", where, f"{key} is {entry[key]!r}; allowed: 0, 1")
    image = heads.images[image_id]
    if image["height"] is None:
        return None
    size_hw = image["height"], image["width"]
    shape = read_shape(entry.get("segmentation"), size_hw)
    if isinstance(shape, Fault):
        return Finding(shape.kind, where, shape.text)
    return Taken(image_id, known[category], bool(flags["iscrowd"]), bool(flags["ignore"]), shape, size_hw)


def stated_in_coco(place: str) -> tuple[dict[int, list[Stated]], list[Finding]]:
    """Returns the boxes and areas that annotations state, by image id in the order of the dataset's segments.

    The findings are those of annotation ids. What else is wrong is found by ``read_coco``.
    """
    listed, entries, categories = parts_of(files.read_json(place, "data.train"), place)
    heads = read_heads(listed, categories, place, lambda finding: None)
    known = heads.positions()
    stated: dict[int, list[Stated]] = {}
    for number, entry in enumerate(entries):
        where = f"{place}: annotations[{number}]"
        taken = taken_entry(entry, where, heads, known)
        if isinstance(taken, Taken) and not taken.is_ignored:
            stated.setdefault(taken.image_id, []).append(stated_by(entry, f"{where} (id {entry.get('id')!r})"))
    return stated, [*_id_findings(entries, place)]


def _id_findings(entries: list[Any], place: str) -> Iterator[Finding]:
    seen: dict[int, int] = {}
    for number, entry in enumerate(entries):
        own = whole(entry.get("id")) if isinstance(entry, dict) else None
        if own is None:
            continue
        if own == 0:
            yield Finding("annotation-id-zero", f"{place}: annotations[{number}]", "has the id 0")
        if own in seen:
            text = f"has the id {own}, as annotations[{seen[own]}] does"
            yield Finding("duplicate-annotation-id", f"{place}: annotations[{number}]", text)
        seen.setdefault(own, number)


def _note_ids(entries: list[Any], place: str, report: Report) -> None:
    """Ids that are 0 or come twice. Nothing here reads annotation ids, but pycocotools' evaluation does."""
    seen: set[int] = set()
    wrong: list[str] = []
    for entry in entries:
        number = whole(entry.get("id")) if isinstance(entry, dict) else None
        if number is not None:
            if number == 0 or number in seen:
                wrong.append(str(number))
            seen.add(number)
    if wrong:
        text = f"{len(wrong):,} annotation ids are 0 or come twice ({examples(wrong)}): pycocotools does not match them"
        report(Finding("annotation-id", place, text))


def _rows(
    heads: Heads,
    segments: dict[int, list[_Segment]],
    named: Mapping[int, str],
    moved: list[int],
    place: str,
    report: Report,
) -> Iterator[files.Row]:
    for image_id, uri in named.items():
        image, own = heads.images[image_id], segments.pop(image_id, [])
        objects = [one for one in own if not one.is_ignored]
        void = [one.counts for one in own if one.is_ignored]
        yield {
            "image_id": image_id,
            "uri": uri,
            "height": image["height"],
            "width": image["width"],
            "segments": [
                {"category": moved[one.category], "iscrowd": one.iscrowd, "counts": one.counts} for one in objects
            ],
            "ignored": _ignored(image, void, objects, f"{place}: image {image_id}: 'ignored'", report),
        }


def _ignored(image: Entry, void: list[str], objects: list[_Segment], where: str, report: Report) -> str | None:
    """Returns pixels that count for nothing: the image's own, and those of ignored annotations that are no object's."""
    value, size_hw = image["ignored"], (image["height"], image["width"])
    codes = []
    if void:
        codes += [without_rle(union_rle(void, size_hw), [one.counts for one in objects], size_hw)]
    if value is not None:
        shape = read_shape(value, size_hw)
        if isinstance(shape, Shape):
            codes.append(shape.counts(size_hw))
        else:
            report(Finding(shape.kind, where, shape.text, image["id"]))
    return None if not codes else codes[0] if len(codes) == 1 else union_rle(codes, size_hw)
