"""COCO instances: one JSON with ``images``, ``categories`` and ``annotations``. https://cocodataset.org/#format-data

Polygons, compressed and uncompressed RLE, crowds; category ids with gaps. An image may carry ``ignored``, an RLE of
pixels that are no class: no key of COCO's, ``convert`` writes it. Masks become RLE one annotation at a time.
"""

from collections.abc import Iterator
from typing import Any

from m2f_batch.datasets import files
from m2f_batch.datasets.boxes import claim_of, contradiction
from m2f_batch.datasets.dataset import Category, Dataset, dataset_of
from m2f_batch.datasets.findings import Finding, Report, examples, stop
from m2f_batch.datasets.masks import (
    area_and_box,
    counts_runs,
    is_size,
    polygon_fault,
    polygons_rle,
    runs_fault,
    runs_rle,
)
from m2f_batch.errors import UsageError
from m2f_batch.storage import uris

Size = tuple[int, int]
Entry = dict[str, Any]
_Segment = tuple[int, bool, str]


def read_coco(annotations: str, images: str | None = None, *, report: Report = stop) -> Dataset:
    """The dataset of a COCO instances JSON; file names are resolved against ``images``, else the JSON's folder.

    Raises UsageError for a file that is none; what is wrong in it goes to ``report``.
    """
    place = uris.normalise(annotations)
    document = files.read_json(place, "data.train")
    listed, categories = read_heads(document, place, report)
    positions = {category.id: position for position, category in enumerate(categories)}
    entries = document.pop("annotations")
    del document
    _note_ids(entries, place, report)
    segments: dict[int, list[_Segment]] = {}
    off: list[str] = []
    entries.reverse()
    for number in range(len(entries)):
        entry = entries.pop()  # a large file's polygons go as their RLE comes
        where = f"{place}: annotations[{number}]"
        for finding in entry_findings(entry, where, listed, positions):
            report(finding)
            break
        else:
            image = listed[entry["image_id"]]
            counts = _mask(entry["segmentation"], (image["height"], image["width"]))
            segment = (positions[entry["category_id"]], bool(entry.get("iscrowd", 0)), counts)
            segments.setdefault(entry["image_id"], []).append(segment)
            claim, size_hw = claim_of(entry, where), (image["height"], image["width"])
            fault = contradiction(claim, *area_and_box(counts, size_hw))
            off += [f"{where}: {fault}"] if fault else []
    if off:
        report(Finding("box-mismatch", place, f"{len(off):,} boxes or areas are not those of their masks ({off[0]})"))
    named = image_uris(listed, images, place, report)
    return dataset_of(categories, _rows(listed, segments, named, place, report))


def image_uris(
    listed: dict[int, Entry], images: str | None, place: str, report: Report, but: str | None = None
) -> dict[int, str]:
    """The uri of each image by id, none of them below ``but``; without those whose name cannot be one."""
    names = [image["file_name"] for image in listed.values()]
    ids = [*listed]
    found = files.find_named(
        names,
        images_folder(images, place),
        report,
        lambda at: f"{place}: image {ids[at]}",
        takes_urls=images is not None,
        but=but,
    )
    return {number: uri for number, uri in zip(ids, found, strict=True) if uri is not None}


def images_folder(images: str | None, place: str) -> str:
    """Where the file names of a JSON begin."""
    return files.folder_of(images, "data.train_images") if images else uris.parent(place)


def read_heads(document: Any, place: str, report: Report) -> tuple[dict[int, Entry], list[Category]]:
    """The images by id, in the file's order, and the categories of a COCO JSON of either kind."""
    for part in ("images", "annotations", "categories"):
        if not isinstance(document, dict) or not isinstance(document.get(part), list):
            raise UsageError(f"data.train: {place!r} is no COCO JSON: it has no list {part!r}")
    listed: dict[int, Entry] = {}
    for number, image in enumerate(document["images"]):
        finding = _image_finding(image, f"{place}: images[{number}]", listed)
        if finding:
            report(finding)
        else:
            listed[image["id"]] = image
    categories: dict[int, Category] = {}
    for number, category in enumerate(document["categories"]):
        finding = _category_finding(category, f"{place}: categories[{number}]", categories)
        if finding:
            report(finding)
        else:
            isthing = bool(category.get("isthing", 1))
            categories[category["id"]] = Category(category["id"], category["name"].strip(), isthing)
    return listed, [*categories.values()]


def _image_finding(image: Any, where: str, listed: dict[int, Entry]) -> Finding | None:
    if not isinstance(image, dict) or type(image.get("id")) is not int or not -(2**63) <= image["id"] < 2**63:
        return Finding("malformed", where, "needs an integer 'id'")
    if not files.is_text(image.get("file_name")):
        return Finding("malformed", where, "needs a text 'file_name'")
    if not is_size(image.get("height"), image.get("width")):
        return Finding("malformed", where, "needs 'height' and 'width' in pixels")
    if image["id"] in listed:
        other = listed[image["id"]]["file_name"]
        return Finding("duplicate-image", where, f"the id {image['id']} is also that of {other!r}")
    return None


def _category_finding(category: Any, where: str, known: dict[int, Category]) -> Finding | None:
    if not isinstance(category, dict) or type(category.get("id")) is not int or not 0 <= category["id"] < 2**31:
        return Finding("malformed", where, "needs an integer 'id' of 0 or more")
    if not files.is_text(category.get("name")):
        return Finding("malformed", where, "needs a text 'name'")
    if category["id"] in known:
        return Finding(
            "duplicate-category", where, f"the id {category['id']} is that of {known[category['id']].name!r}"
        )
    return None


def unknown_category(category: Any, where: str, known: dict[int, int]) -> Finding:
    """A class that the file does not declare; ``known`` has the ids that it does."""
    span = f"{min(known)} to {max(known)}" if known else "none"
    text = f"category_id {category!r} is none of the {len(known)} categories (ids {span}); are its ids off by one?"
    return Finding("unknown-category", where, text)


def entry_findings(entry: Any, where: str, listed: dict[int, Entry], known: dict[int, int]) -> Iterator[Finding]:
    """What keeps one annotation from being used."""
    if not isinstance(entry, dict):
        yield Finding("malformed", where, "is no JSON object")
        return
    where = f"{where} (id {entry.get('id')!r})"
    image = listed.get(entry["image_id"]) if type(entry.get("image_id")) is int else None
    if image is None:
        yield Finding("unlisted-image", where, f"image_id {entry.get('image_id')!r} is not in 'images'")
    if type(entry.get("category_id")) is not int or entry["category_id"] not in known:
        yield unknown_category(entry.get("category_id"), where, known)
    if entry.get("iscrowd", 0) not in (0, 1):
        yield Finding("malformed", where, f"iscrowd is {entry['iscrowd']!r}; allowed: 0, 1")
    shape = entry.get("segmentation")
    if shape is None or shape == []:
        yield Finding("no-mask", where, "has no 'segmentation': a box is not enough to learn masks from")
    elif image is not None:
        yield from mask_findings(shape, where, (image["height"], image["width"]))


def mask_findings(shape: Any, where: str, size_hw: Size) -> Iterator[Finding]:
    """What keeps a COCO ``segmentation`` from being a mask of an image of H, W."""
    if isinstance(shape, list):
        fault = next((fault for fault in map(polygon_fault, shape) if fault), None)
        if fault:
            yield Finding("invalid-mask", where, fault)
        return
    if not isinstance(shape, dict) or "counts" not in shape:
        yield Finding("invalid-mask", where, "'segmentation' must be a list of polygons or an RLE with 'counts'")
        return
    if shape.get("size") != [*size_hw]:
        text = f"its RLE has the size {shape.get('size')}, its image {[*size_hw]} (height, width)"
        yield Finding("mask-size", where, text)
        return
    runs = counts_runs(shape["counts"]) if isinstance(shape["counts"], str) else shape["counts"]
    fault = "its compressed RLE is none" if runs is None else runs_fault(runs, size_hw)
    if fault:
        yield Finding("invalid-mask", where, fault)


def _mask(shape: Any, size_hw: Size) -> str:
    if isinstance(shape, list):
        return polygons_rle(shape, size_hw)
    counts = shape["counts"]
    return runs_rle(counts_runs(counts) or [] if isinstance(counts, str) else counts, size_hw)


def _note_ids(entries: list[Any], place: str, report: Report) -> None:
    """Ids that are 0 or come twice. Nothing here reads annotation ids, but pycocotools' evaluation does."""
    seen: set[int] = set()
    wrong: list[str] = []
    for entry in entries:
        number = entry.get("id") if isinstance(entry, dict) else None
        if type(number) is int:
            if number == 0 or number in seen:
                wrong.append(str(number))
            seen.add(number)
    if wrong:
        text = f"{len(wrong):,} annotation ids are 0 or come twice ({examples(wrong)}): pycocotools does not match them"
        report(Finding("annotation-id", place, text))


def _rows(
    listed: dict[int, Entry], segments: dict[int, list[_Segment]], named: dict[int, str], place: str, report: Report
) -> Iterator[files.Row]:
    for image_id, uri in named.items():
        image = listed[image_id]
        yield {
            "image_id": image_id,
            "uri": uri,
            "height": image["height"],
            "width": image["width"],
            "segments": [
                {"category": category, "iscrowd": iscrowd, "counts": counts}
                for category, iscrowd, counts in segments.pop(image_id, [])
            ],
            "ignored": _ignored(image, f"{place}: image {image_id}: 'ignored'", report),
        }


def _ignored(image: Entry, where: str, report: Report) -> str | None:
    shape, size_hw = image.get("ignored"), (image["height"], image["width"])
    if shape is None:
        return None
    for finding in mask_findings(shape, where, size_hw):
        report(finding)
        return None
    return _mask(shape, size_hw)
