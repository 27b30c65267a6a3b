"""Reads labelme: a folder of one JSON for each image. https://github.com/wkentaro/labelme"""

from typing import TYPE_CHECKING

from m2f_batch.datasets.format import FileLook, Format, Source

if TYPE_CHECKING:
    from m2f_batch.datasets.dataset import Dataset
    from m2f_batch.datasets.findings import Report


def _sniff(look: FileLook) -> str | None:
    from m2f_batch.datasets.recognize.jsons import is_labelme

    return "labelme" if is_labelme(look.document) else None


def _read(source: Source, report: "Report") -> "Dataset":
    from m2f_batch.datasets.labelme.reader import read_labelme

    return read_labelme(source.place, source.images, report=report)


FORMAT = Format(name="labelme", help="folder of labelme JSONs", is_folder=True, sniff_file=_sniff, read=_read)
