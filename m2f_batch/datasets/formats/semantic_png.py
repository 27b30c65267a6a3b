"""Reads semantic PNGs: a folder of masks whose values, or colors, are classes."""

from typing import TYPE_CHECKING

from m2f_batch.datasets.format import FolderLook, Format, Source

if TYPE_CHECKING:
    from m2f_batch.datasets.dataset import Dataset
    from m2f_batch.datasets.findings import Report


def _sniff(look: FolderLook) -> str | None:
    return "a folder of mask PNGs" if look.paths("png") else None


def _is_meant(place: str, folder: FolderLook | None, masks: str | None) -> bool:
    """A folder of TIFFs, or a folder of images or a text with the names of the classes beside the masks."""
    if folder is not None:
        return bool(folder.paths("tif", "tiff")) or (masks is not None and folder.has_images)
    return masks is not None and place.lower().endswith(".txt")


def _read(source: Source, report: "Report") -> "Dataset":
    from m2f_batch.datasets.png.semantic import read_semantic_png

    return read_semantic_png(
        source.place,
        source.images,
        source.masks,
        ignore_index=source.ignore_index,
        do_reduce_labels=source.do_reduce_labels,
        class_names=source.names,
        mask_suffix=source.mask_suffix,
        colors=source.palette,
        report=report,
    )


FORMAT = Format(
    name="semantic-png",
    help="folder of class PNGs",
    takes=frozenset({"train_masks", "ignore_index", "names", "mask_suffix", "do_reduce_labels", "palette"}),
    task="semantic",
    is_folder=True,
    size_from="mask",
    sniff_folder=_sniff,
    is_meant=_is_meant,
    read=_read,
)
