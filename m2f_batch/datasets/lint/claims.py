"""What the annotations of a COCO JSON say of themselves beside their masks: ids, boxes, areas."""

from collections.abc import Iterator
from typing import Any

from m2f_batch.datasets import files
from m2f_batch.datasets.coco.boxes import Claim, claim_of
from m2f_batch.datasets.coco.heads import parts_of, read_heads, whole
from m2f_batch.datasets.findings import Finding
from m2f_batch.datasets.formats.coco import Taken, taken_entry
from m2f_batch.storage import uris


def claims_of(annotations: str, form: str) -> tuple[dict[int, list[Claim]], list[Finding]]:
    """Claims by image id, in the order of the dataset's segments, and what is wrong with annotation ids.

    Of ``coco`` those that the reader takes, of ``coco-panoptic`` all; nothing of other formats.
    """
    claims: dict[int, list[Claim]] = {}
    if form not in ("coco", "coco-panoptic"):
        return claims, []
    place = uris.normalise(annotations)
    listed, entries, declared = parts_of(files.read_json(place, "data.train"), place)
    heads = read_heads(listed, declared, place, lambda finding: None)
    if form == "coco-panoptic":
        for entry in entries:
            if isinstance(entry, dict) and isinstance(entry.get("segments_info"), list):
                infos = [info for info in entry["segments_info"] if isinstance(info, dict)]
                number = heads.image_id(entry.get("image_id"))
                if number is not None:
                    said = f"{place}: image {number}: segment"
                    claims[number] = [claim_of(info, f"{said} {info.get('id')}") for info in infos]
        return claims, []
    known = heads.positions()
    for number, entry in enumerate(entries):
        where = f"{place}: annotations[{number}]"
        taken = taken_entry(entry, where, heads, known)
        if isinstance(taken, Taken) and not taken.is_ignored:
            claims.setdefault(taken.image_id, []).append(claim_of(entry, f"{where} (id {entry.get('id')!r})"))
    return claims, [*_id_findings(entries, place)]


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
