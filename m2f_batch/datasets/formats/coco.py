"""Reads and writes COCO instances: one JSON. https://cocodataset.org/#format-data"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from m2f_batch.datasets.format import FileLook, Format, Source, Target

if TYPE_CHECKING:
    from m2f_batch.datasets.annotated import AnnotatedImages
    from m2f_batch.datasets.dataset import Dataset, Stated
    from m2f_batch.datasets.findings import Finding, Report


def _sniff(look: FileLook) -> str | None:
    from m2f_batch.datasets.recognize.jsons import coco_kind

    return "COCO" if coco_kind(look.document) == "instances" else None


def _read(source: Source, report: "Report") -> "Dataset":
    from m2f_batch.datasets.coco.instances import read_coco

    return read_coco(source.place, source.images, report=report)


def _stated(annotations: str) -> "tuple[dict[int, list[Stated]], list[Finding]]":
    from m2f_batch.datasets.coco.instances import stated_in_coco

    return stated_in_coco(annotations)


def _write(splits: "Mapping[str, AnnotatedImages]", target: Target) -> Iterator[str]:
    from m2f_batch.datasets.coco.writer import write_coco

    return write_coco(splits, target)


FORMAT = Format(
    name="coco",
    help="COCO JSON",
    takes=frozenset({"crowd_as_object"}),
    sniff_file=_sniff,
    read=_read,
    stated=_stated,
    write=_write,
    suffix=".json",
    begins=r'\{\s*"(info":\s*\{\s*"description":\s*"m2f_batch |annotations":)',  # the latter: keys were sorted
)
