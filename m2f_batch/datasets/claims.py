"""What the annotations of a COCO JSON say of themselves beside their masks: ids, boxes, areas."""

from collections.abc import Iterator
from typing import Any

from m2f_batch.datasets import files
from m2f_batch.datasets.boxes import Claim, claim_of
from m2f_batch.datasets.findings import Finding
from m2f_batch.datasets.readers.coco import entry_findings, read_heads
from m2f_batch.storage import uris


def claims_of(annotations: str, form: str) -> tuple[dict[int, list[Claim]], list[Finding]]:
    """Claims by image id, in the order of the dataset's segments, and what is wrong with annotation ids.

    Of ``coco`` those that the reader takes, of ``coco-panoptic`` all; nothing of other formats.
    """
    claims: dict[int, list[Claim]] = {}
    if form not in ("coco", "coco-panoptic"):
        return claims, []
    place = uris.normalise(annotations)
    document = files.read_json(place, "data.train")
    listed, categories = read_heads(document, place, lambda finding: None)
    entries = document["annotations"]
    if form == "coco-panoptic":
        for entry in entries:
            if isinstance(entry, dict) and isinstance(entry.get("segments_info"), list):
                infos = [info for info in entry["segments_info"] if isinstance(info, dict)]
                found = [
                    claim_of(info, f"{place}: image {entry.get('image_id')}: segment {info.get('id')}")
                    for info in infos
                ]
                claims[entry.get("image_id")] = found  # type: ignore[index]
        return claims, []
    known = {category.id: position for position, category in enumerate(categories)}
    for number, entry in enumerate(entries):
        where = f"{place}: annotations[{number}]"
        if next(entry_findings(entry, where, listed, known), None) is None:
            claims.setdefault(entry["image_id"], []).append(claim_of(entry, f"{where} (id {entry.get('id')!r})"))
    return claims, [*_id_findings(entries, place)]


def _id_findings(entries: list[Any], place: str) -> Iterator[Finding]:
    seen: dict[int, int] = {}
    for number, entry in enumerate(entries):
        own = entry.get("id") if isinstance(entry, dict) else None
        if type(own) is not int:
            continue
        if own == 0:
            yield Finding("annotation-id-zero", f"{place}: annotations[{number}]", "has the id 0")
        if own in seen:
            text = f"has the id {own}, as annotations[{seen[own]}] does"
            yield Finding("duplicate-annotation-id", f"{place}: annotations[{number}]", text)
        seen.setdefault(own, number)
