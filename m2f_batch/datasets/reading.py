"""Reads a dataset of any format. All commands read datasets through here."""

from collections.abc import Callable, Collection

from m2f_batch.config.data import ClassNames, Palette
from m2f_batch.config.formats import OWN_KEYS, read_formats, takers
from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.findings import Report, stop
from m2f_batch.datasets.format import PART, Source, formats
from m2f_batch.datasets.learnable import learnable, learnable_findings
from m2f_batch.datasets.pixel_cap import pixel_cap
from m2f_batch.datasets.recognize.annotations import naming_formats
from m2f_batch.errors import UsageError
from m2f_batch.messages.foreign_words import meant_value
from m2f_batch.storage.store import ObjectError, StoreUnavailable


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
    """Returns a dataset of any format: ``data.format``, ``data.train``, ``data.train_images``, ``data.train_masks``.

    ``split`` chooses in a ``data.yaml`` of YOLO, and means nothing elsewhere. ``crowd_as_object``: crowds of COCO are
    taken as objects. Where nothing is left to learn, that is a finding, whatever the format. What is wrong in the files
    goes to ``report``, which by default stops with the first finding. Raises UsageError for arguments that do not fit
    the format and for what cannot be read at all. ``max_pixels``: of an image or mask that is opened.
    """
    values = (masks, ignore_index, names, mask_suffix, do_reduce_labels, palette, crowd_as_object)
    given = {key for key, value in zip(OWN_KEYS, values, strict=True) if value is not None and value is not False}
    read = _reader_of(form, given)
    if max_pixels is not None and max_pixels < 1:
        raise UsageError(f"must be 1 or more; got {max_pixels}", field="data.max_pixels")
    source = Source(
        annotations=annotations,
        images=images,
        masks=masks,
        ignore_index=ignore_index,
        do_reduce_labels=do_reduce_labels,
        names=names,
        mask_suffix=mask_suffix,
        palette=palette,
        split=split,
    )
    try:
        with pixel_cap(max_pixels):
            dataset = read(source, report)
    except (ObjectError, StoreUnavailable) as error:
        raise UsageError.about("data.train", error) from error
    if crowd_as_object:
        dataset = dataset.crowds_as_objects()
    for finding in learnable_findings(learnable(dataset), annotations):
        report(finding)
    return dataset


def _reader_of(form: str, given: Collection[str]) -> Callable[[Source, Report], Dataset]:
    """The reader of a format. Raises UsageError for one that is not read, and for keys ``given`` that it refuses."""
    known = formats().get(form)
    if known is None or known.read is None:
        hint = meant_value(form, read_formats())
        raise UsageError("is not known", field="data.format", value=form, allowed=", ".join(read_formats()), hint=hint)
    for key in OWN_KEYS:
        if key in given and key not in known.takes:
            if key == "train_masks":
                problem = f"the format {form} has no folder of masks"
                raise UsageError(problem, field="data.train_masks", hint="leave it out")
            raise UsageError(f"only for {takers(key, ' and ')}, not for {form}", field=f"data.{key}")
    if {"palette", "do_reduce_labels"} <= {*given}:
        raise UsageError("not with data.palette, which says what each color is", field="data.do_reduce_labels")
    return known.read


def option_names(annotations: str, form: str) -> dict[str, str]:
    """Gives the options, for the keys that readers speak of, of a command that reads a dataset without a config.

    ``annotations`` and ``form`` are its names of ``data.train`` and ``data.format``.
    """
    return {
        "data.train": annotations,
        "data.train_images": "--images",
        "data.train_masks": "--masks",
        "data.format": form,
        "--format": form,
        **{f"data.format={name}": f"{form} {name}" for name in read_formats()},
        "data.ignore_index": "--ignore-index",
        "data.do_reduce_labels": "--do-reduce-labels",
        "data.names": "--names",
        "data.mask_suffix": "--mask-suffix",
        "data.palette": "--palette",
        "data.crowd_as_object: true": "--crowd-as-object",
        "data.crowd_as_object": "--crowd-as-object",
        "data.max_pixels": "--max-pixels",
        PART: "--part",
    }
