"""COCO panoptic: a JSON with ``segments_info`` per image, and a folder of PNGs whose RGB are segment ids.

https://cocodataset.org/#format-data, 4. A pixel of 0 is void: it becomes ``ignored``.
"""

from functools import partial
from typing import Any

from m2f_batch.datasets import files
from m2f_batch.datasets.dataset import Dataset, dataset_of
from m2f_batch.datasets.findings import Finding, Report, stop
from m2f_batch.datasets.masks import label_map_rle, runs_rle
from m2f_batch.datasets.readers.coco import Entry, image_uris, read_heads, unknown_category
from m2f_batch.errors import DecodeError
from m2f_batch.storage import uris
from m2f_batch.storage.store import ObjectError


def read_coco_panoptic(
    annotations: str, images: str | None = None, masks: str | None = None, *, report: Report = stop
) -> Dataset:
    """The dataset of a COCO panoptic JSON; ``masks`` is by default the folder with the JSON's name, without ``.json``.

    An image without an annotation is wholly void. Raises UsageError for a file that is none; what is wrong in it goes
    to ``report``.
    """
    place = uris.normalise(annotations)
    pngs = files.folder_of(masks or place.removesuffix(".json"), "data.train_masks")
    document = files.read_json(place, "data.train")
    listed, categories = read_heads(document, place, report)
    positions = {category.id: position for position, category in enumerate(categories)}
    annotated: dict[int, tuple[str, Entry]] = {}
    for number, entry in enumerate(document["annotations"]):
        where = f"{place}: annotations[{number}]"
        finding = _entry_finding(entry, where, listed, annotated)
        if finding:
            report(finding)
        else:
            annotated[entry["image_id"]] = (where, entry)
    named = image_uris(listed, images, place, report, but=pngs)
    read_one = partial(_read, annotated=annotated, known=positions, named=named, pngs=pngs)
    return dataset_of(categories, files.rows_of(read_one, [listed[number] for number in named], report))


def _entry_finding(entry: Any, where: str, listed: dict[int, Entry], seen: dict[int, Any]) -> Finding | None:
    if not isinstance(entry, dict) or not files.is_text(entry.get("file_name")):
        return Finding("malformed", where, "needs a text 'file_name', the name of its PNG")
    image_id = entry.get("image_id")
    if type(image_id) is not int or image_id not in listed:
        return Finding("unlisted-image", where, f"image_id {image_id!r} is not in 'images'")
    if image_id in seen:
        return Finding("duplicate-image", where, f"the image {image_id} has an annotation already")
    infos = entry.get("segments_info")
    if not isinstance(infos, list) or not all(isinstance(info, dict) and type(info.get("id")) is int for info in infos):
        return Finding("malformed", where, "needs a list 'segments_info' of objects with an integer 'id'")
    return None


def _read(
    image: Entry, annotated: dict[int, tuple[str, Entry]], known: dict[int, int], named: dict[int, str], pngs: str
) -> files.Read:
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
    png = uris.join(pngs, entry["file_name"])
    try:
        ids = files.read_rgb_ids(png)
    except (DecodeError, ObjectError) as error:
        return None, [Finding("unreadable-mask", where, f"{png}: {error}")]
    if ids.shape != size_hw:
        text = f"{png} has the size {[*ids.shape]}, its image {[*size_hw]} (height, width)"
        return None, [Finding("mask-size", where, text)]
    codes = label_map_rle(ids)
    row["ignored"] = codes.pop(0, None)
    findings = []
    for info in entry["segments_info"]:
        finding, counts = _info_finding(info, where, known), codes.pop(info["id"], None)
        if counts is None:
            finding = Finding("missing-segment", where, f"the segment {info['id']} has no pixel in {png}")
        if finding:
            findings.append(finding)
            continue
        category, iscrowd = known[info["category_id"]], bool(info.get("iscrowd", 0))
        row["segments"].append({"category": category, "iscrowd": iscrowd, "counts": counts})
    if codes:
        text = f"{png} has pixels of {sorted(codes)[:3]}, which no entry of 'segments_info' has as id"
        findings.append(Finding("unknown-value", where, text))
    return row, findings


def _info_finding(info: Entry, where: str, known: dict[int, int]) -> Finding | None:
    if type(info.get("category_id")) is not int or info["category_id"] not in known:
        return unknown_category(info.get("category_id"), f"{where}: segment {info['id']}", known)
    if info.get("iscrowd", 0) not in (0, 1):
        return Finding("malformed", where, f"segment {info['id']}: iscrowd is {info['iscrowd']!r}; allowed: 0, 1")
    return None
