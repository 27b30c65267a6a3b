"""Reads instance PNGs: a folder of masks whose values are numbers of objects."""

from typing import TYPE_CHECKING

from m2f_batch.datasets.format import Format, Source

if TYPE_CHECKING:
    from m2f_batch.datasets.dataset import Dataset
    from m2f_batch.datasets.findings import Report


def _read(source: Source, report: "Report") -> "Dataset":
    from m2f_batch.datasets.png.instances import read_instance_png

    return read_instance_png(
        source.place,
        source.images,
        source.masks,
        ignore_index=source.ignore_index,
        class_names=source.names,
        mask_suffix=source.mask_suffix,
        report=report,
    )


FORMAT = Format(
    name="instance-png",
    help="folder of object PNGs",
    takes=frozenset({"train_masks", "ignore_index", "names", "mask_suffix"}),
    is_folder=True,
    size_from="mask",
    read=_read,
)
