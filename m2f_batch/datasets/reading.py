"""From a format's name to its reader: the one door to a dataset."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, get_args

from m2f_batch.config.data import PNG_FORMATS, ClassNames, DataFormat, Palette
from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.findings import Report, stop
from m2f_batch.datasets.formats.coco import read_coco
from m2f_batch.datasets.formats.coco_panoptic import read_coco_panoptic
from m2f_batch.datasets.formats.instance_png import read_instance_png
from m2f_batch.datasets.formats.labelme import read_labelme
from m2f_batch.datasets.formats.semantic_png import read_semantic_png
from m2f_batch.datasets.formats.yolo import read_yolo
from m2f_batch.datasets.learnable import learnable, learnable_findings
from m2f_batch.datasets.pixel_cap import pixel_cap
from m2f_batch.datasets.recognize import naming_formats
from m2f_batch.errors import UsageError
from m2f_batch.storage.store import ObjectError, StoreUnavailable

HAVE_CROWDS = ("coco", "coco-panoptic")
# the formats that an option is for
_TAKE = {
    "train_masks": ("coco-panoptic", *PNG_FORMATS, "yolo"),
    "ignore_index": PNG_FORMATS,
    "names": PNG_FORMATS,
    "mask_suffix": PNG_FORMATS,
    "do_reduce_labels": ("semantic-png",),
    "palette": ("semantic-png",),
    "crowd_as_object": HAVE_CROWDS,
}


@naming_formats
def read_dataset(
    form: str,
    annotations: str,
    images: str | None = None,
    masks: str | None = None,
    *,
    ignore_index: int | None = None,
    do_reduce_labels: bool = False,
    crowd_as_object: bool = False,
    names: ClassNames | None = None,
    mask_suffix: str | None = None,
    palette: Palette | None = None,
    max_pixels: int | None = None,
    split: str = "train",
    report: Report = stop,
) -> Dataset:
    """A dataset of any format: ``data.format``, ``data.train``, ``data.train_images``, ``data.train_masks``.

    ``split`` chooses in a ``data.yaml`` of YOLO, and means nothing elsewhere. ``crowd_as_object``: crowds of COCO are
    taken as objects. Where nothing is left to learn, that is a finding, whatever the format. What is wrong in the files
    goes to ``report``, which by default stops with the first finding. Raises UsageError for arguments that do not fit
    the format and for what cannot be read at all. ``max_pixels``: of an image or mask that is opened.
    """
    values = (masks, ignore_index, names, mask_suffix, do_reduce_labels, palette, crowd_as_object)
    _check_fit(
        form, {field for field, value in zip(_TAKE, values, strict=True) if value is not None and value is not False}
    )
    if max_pixels is not None and max_pixels < 1:
        raise UsageError(f"data.max_pixels: must be 1 or more; got {max_pixels}")
    of_masks: dict[str, Any] = {"ignore_index": ignore_index, "class_names": names, "mask_suffix": mask_suffix}
    read_with_masks: dict[str, Callable[..., Dataset]] = {
        "coco-panoptic": read_coco_panoptic,
        "semantic-png": partial(read_semantic_png, **of_masks, do_reduce_labels=do_reduce_labels, colors=palette),
        "instance-png": partial(read_instance_png, **of_masks),
        "yolo": partial(read_yolo, split=split),
    }
    try:
        with pixel_cap(max_pixels):
            if form in read_with_masks:
                dataset = read_with_masks[form](annotations, images, masks, report=report)
            else:
                dataset = (read_coco if form == "coco" else read_labelme)(annotations, images, report=report)
    except (ObjectError, StoreUnavailable) as error:
        raise UsageError(f"data.train: {error}") from error
    if crowd_as_object:
        dataset = dataset.crowds_as_objects()
    for finding in learnable_findings(learnable(dataset), annotations):
        report(finding)
    return dataset


def _check_fit(form: str, given: Collection[str]) -> None:
    """Raises UsageError for a format that is none, and for an option that is ``given`` and not one of its own."""
    if form not in get_args(DataFormat):
        raise UsageError(f"data.format: {form!r} is not known; allowed: {', '.join(get_args(DataFormat))}")
    for field in _TAKE:
        if field in given and form not in _TAKE[field]:
            if field == "train_masks":
                raise UsageError(f"data.train_masks: the format {form} has no folder of masks; leave it out")
            raise UsageError(f"data.{field}: only for {' and '.join(_TAKE[field])}, not for {form}")
    if {"palette", "do_reduce_labels"} <= {*given}:
        raise UsageError("data.do_reduce_labels: not with data.palette, which says what each color is")
