"""Reads COCO panoptic: a JSON with ``segments_info`` per image, and a folder of PNGs whose RGB are segment ids.

https://cocodataset.org/#format-data, 4. A pixel of 0 is void: it becomes ``ignored``.
"""

import posixpath
from functools import partial
from typing import Any

from m2f_batch.datasets import files
from m2f_batch.datasets.coco.boxes import stated_by
from m2f_batch.datasets.coco.images_and_categories import (
    Entry,
    Heads,
    entries_of,
    flag,
    image_uris,
    meant_categories,
    parts_of,
    read_heads,
    unknown_category,
    whole,
)
from m2f_batch.datasets.dataset import Dataset, Stated, dataset_of
from m2f_batch.datasets.findings import Finding, Report, stop
from m2f_batch.datasets.masks import label_map_rle, runs_rle
from m2f_batch.errors import DecodeError
from m2f_batch.storage.store import ObjectError

_Annotated = dict[int, tuple[str, Entry]]


def read_coco_panoptic(
    place: str, images: str | None = None, masks: str | None = None, *, report: Report = stop
) -> Dataset:
    """Reads a COCO panoptic JSON. ``masks`` is by default the folder with the name of the JSON, without ``.json``.

    An image without an annotation is wholly void. Raises UsageError for a file that is none. What is wrong in it goes
    to ``report``.
    """
    folder = files.folder_of(masks or place.removesuffix(".json"), "data.train_masks")
    listed, entries, categories = parts_of(files.read_json(place, "data.train"), place)
    heads = read_heads(listed, categories, place, report)
    annotated: _Annotated = {}
    for number, entry in enumerate(entries):
        where = f"{place}: annotations[{number}]"
        taken = _taken(entry, where, heads, annotated)
        if isinstance(taken, Finding):
            if taken.kind != "unlisted-image" or not heads.is_refused(entry.get("image_id")):
                report(heads.of_entry(taken, entry))
        else:
            annotated[taken] = (where, entry)
    named = image_uris(heads, images, place, report, but=folder)
    pngs = _pngs(annotated, folder, place, report)
    read_one = partial(_read, annotated=annotated, heads=heads, named=named, pngs=pngs)
    items = [heads.images[number] for number in named]
    rows = [*files.rows_of(read_one, items, report, lambda image: named[image["id"]])]
    used = {segment["category"] for row in rows for segment in row["segments"]}
    kept, moved = meant_categories(heads.categories, used, place, report)
    for row in rows:
        for segment in row["segments"]:
            segment["category"] = moved[segment["category"]]
    return dataset_of(kept, rows)


def stated_in_panoptic(place: str) -> tuple[dict[int, list[Stated]], list[Finding]]:
    """Returns the boxes and areas that ``segments_info`` states, by image id in the order of the dataset's segments."""
    listed, entries, categories = parts_of(files.read_json(place, "data.train"), place)
    heads = read_heads(listed, categories, place, lambda finding: None)
    stated: dict[int, list[Stated]] = {}
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("segments_info"), list):
            infos = [info for info in entry["segments_info"] if isinstance(info, dict)]
            number = heads.image_id(entry.get("image_id"))
            if number is not None:
                where = f"{place}: image {number}: segment"
                stated[number] = [stated_by(info, f"{where} {info.get('id')}") for info in infos]
    return stated, []


def _taken(entry: Any, where: str, heads: Heads, seen: _Annotated) -> int | Finding:
    """The id of the image of an annotation, or what keeps it from being used."""
    if not isinstance(entry, dict) or not files.is_text(entry.get("file_name")):
        return Finding("malformed", where, "needs a text 'file_name', the name of its PNG")
    image_id = heads.image_id(entry.get("image_id"))
    if image_id is None:
        return Finding("unlisted-image", where, f"image_id {entry.get('image_id')!r} is not in 'images'")
    if image_id in seen:
        return Finding("duplicate-image", where, f"the image {image_id} has an annotation already")
    infos = entry.get("segments_info")
    if isinstance(infos, dict):
        infos = entry["segments_info"] = entries_of(infos)
    if not isinstance(infos, list) or not all(
        isinstance(info, dict) and whole(info.get("id")) is not None for info in infos
    ):
        return Finding("malformed", where, "needs a list 'segments_info' of objects with an integer 'id'")
    return image_id


def _pngs(annotated: _Annotated, folder: str, place: str, report: Report) -> dict[int, str]:
    """Names the PNG of each annotated image. A name of another kind, such as the image has, means that of its stem."""
    written = {image_id: str(entry["file_name"]) for image_id, (_, entry) in annotated.items()}
    others = [name for name in written.values() if not name.lower().endswith(".png")]
    if others:
        text = f"{len(others):,} of {len(written):,} annotations name no PNG, and mean the one with its stem: "
        report(Finding("other-name", place, f"{text}{others[0]!r} is {_as_png(others[0])!r}"))
    names = [name if name.lower().endswith(".png") else _as_png(name) for name in written.values()]
    wheres = [where for where, _ in annotated.values()]
    found = files.find_named(names, folder, report, lambda at: wheres[at], extensions=("png",), takes_urls=True)
    return {image_id: uri for image_id, uri in zip(written, found, strict=True) if uri is not None}


def _as_png(name: str) -> str:
    return f"{posixpath.splitext(name)[0]}.png"


def _read(image: Entry, annotated: _Annotated, heads: Heads, named: dict[int, str], pngs: dict[int, str]) -> files.Read:
    height, width = size_hw = image["height"], image["width"]
    row: files.Row = {
        "image_id": image["id"],
        "uri": named[image["id"]],
        "height": height,
        "width": width,
        "segments": [],
        "ignored": runs_rle([0, height * width], size_hw),
    }
    if image["id"] not in annotated:
        return row, []
    where, entry = annotated[image["id"]]
    if image["id"] not in pngs:  # which is reported
        return None, []
    png = pngs[image["id"]]
    try:
        ids = files.read_rgb_ids(png)
    except (DecodeError, ObjectError) as error:
        return None, [Finding("unreadable-mask", where, f"{png}: {error}")]
    if ids.shape != size_hw:
        text = f"{png} has the size {[*ids.shape]}, its image {[*size_hw]} (height, width)"
        return None, [Finding("mask-size", where, text)]
    codes, known = label_map_rle(ids), heads.positions()
    row["ignored"] = codes.pop(0, None)
    findings = []
    for info in entry["segments_info"]:
        number = whole(info["id"])
        finding, counts = _info_finding(info, where, heads, known), codes.pop(number or 0, None)
        if counts is None:
            finding = Finding("missing-segment", where, f"the segment {number} has no pixel in {png}")
        if finding:
            findings.append(finding)
            continue
        category = known[heads.category_id(info["category_id"]) or 0]
        row["segments"].append({"category": category, "iscrowd": bool(flag(info.get("iscrowd"))), "counts": counts})
    if codes:
        text = f"{png} has pixels of {sorted(codes)[:3]}, which no entry of 'segments_info' has as id"
        findings.append(Finding("unknown-value", where, text))
    return row, findings


def _info_finding(info: Entry, where: str, heads: Heads, known: dict[int, int]) -> Finding | None:
    if heads.category_id(info.get("category_id")) not in known:
        return unknown_category(info.get("category_id"), f"{where}: segment {info['id']}", known)
    if flag(info.get("iscrowd")) is None:
        return Finding("malformed", where, f"segment {info['id']}: iscrowd is {info['iscrowd']!r}; allowed: 0, 1")
    return None
