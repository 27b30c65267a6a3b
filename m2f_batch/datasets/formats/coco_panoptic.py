"""Reads COCO panoptic: a JSON and a folder of PNGs. https://cocodataset.org/#format-data"""

from typing import TYPE_CHECKING

from m2f_batch.datasets.format import FileLook, Format, Source

if TYPE_CHECKING:
    from m2f_batch.datasets.dataset import Dataset, Stated
    from m2f_batch.datasets.findings import Finding, Report


def _sniff(look: FileLook) -> str | None:
    from m2f_batch.datasets.recognize.jsons import coco_kind

    return "COCO panoptic" if coco_kind(look.document) == "panoptic" else None


def _read(source: Source, report: "Report") -> "Dataset":
    from m2f_batch.datasets.coco.panoptic import read_coco_panoptic

    return read_coco_panoptic(source.place, source.images, source.masks, report=report)


def _stated(annotations: str) -> "tuple[dict[int, list[Stated]], list[Finding]]":
    from m2f_batch.datasets.coco.panoptic import stated_in_panoptic

    return stated_in_panoptic(annotations)


FORMAT = Format(
    name="coco-panoptic",
    help="COCO panoptic JSON",
    takes=frozenset({"train_masks", "crowd_as_object"}),
    task="panoptic",
    sniff_file=_sniff,
    read=_read,
    stated=_stated,
)
