"""Reads and writes YOLO segments: a ``data.yaml`` with folders of images and labels.

https://docs.ultralytics.com/datasets/segment/
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from m2f_batch.datasets.format import FileLook, Format, Source, Target

if TYPE_CHECKING:
    from m2f_batch.datasets.annotated import AnnotatedImages
    from m2f_batch.datasets.dataset import Dataset
    from m2f_batch.datasets.findings import Report

_EXTENSIONS = frozenset({"yaml", "yml"})


def _sniff(look: FileLook) -> str | None:
    if look.extension not in _EXTENSIONS or not re.search(rb"(?m)^names\s*:", look.data):
        return None
    is_data = posixpath.basename(look.place) == "data.yaml"
    return "a YOLO dataset" if is_data or re.search(rb"(?m)^(train|val|test|path)\s*:", look.data) else None


def _read(source: Source, report: "Report") -> "Dataset":
    from m2f_batch.datasets.yolo.reader import read_yolo

    return read_yolo(source.place, source.images, source.masks, split=source.split, report=report)


def _write(splits: "Mapping[str, AnnotatedImages]", target: Target) -> Iterator[str]:
    from m2f_batch.datasets.yolo.writer import write_yolo

    return write_yolo(splits, target)


FORMAT = Format(
    name="yolo",
    help="data.yaml of YOLO",
    takes=frozenset({"train_masks"}),
    extensions=_EXTENSIONS,  # a large JSON is YAML, too, and takes minutes as such
    size_from="image",
    keeps_unlabeled=True,
    sniff_file=_sniff,
    read=_read,
    write=_write,
    writes_tasks=frozenset(),
    writes_stuff=False,
)
