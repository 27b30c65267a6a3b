"""Reads train and val of a dataset, as the ``data`` section of a finetune config defines them."""

from typing import Any

import numpy as np
import pyarrow as pa

from m2f_batch.config.data import DataConfig
from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.findings import Finding, Report, examples, stop
from m2f_batch.datasets.format import PART, formats
from m2f_batch.datasets.png.class_values import are_unnamed
from m2f_batch.datasets.reading import read_dataset
from m2f_batch.datasets.splits.groups import group_keys
from m2f_batch.datasets.splits.split import split_images
from m2f_batch.errors import UsageError

# of both splits
_OPTIONS = ("ignore_index", "do_reduce_labels", "crowd_as_object", "names", "mask_suffix", "palette", "max_pixels")

# readers name the keys of the split to train on
_OF_VAL = {f"data.train{name}": f"data.val{name}" for name in ("", "_images", "_masks")}


def places_of(data: DataConfig) -> dict[str, str | None]:
    """Returns the places that a ``data`` section names, by field."""
    names = ("train", "train_images", "train_masks", "val", "val_images", "val_masks")
    return {f"data.{name}": getattr(data, name) for name in names} | data.files_named


def read_splits(data: DataConfig, report: Report = stop) -> tuple[Dataset, Dataset | None]:
    """Reads train, and val if there is one. Both have the categories of ``data.train``.

    What is wrong in the files goes to ``report``, that no image is left to train on, too. Raises UsageError for what
    cannot be read at all.
    """

    def read(annotations: str, images: str | None, masks: str | None, part: str) -> Dataset:
        options: dict[str, Any] = {name: getattr(data, name) for name in _OPTIONS}
        if names is not None:
            options["names"] = names
        try:
            return read_dataset(data.format, annotations, images, masks, **options, split=part, report=report)
        except UsageError as error:
            raise error.in_words({PART: "data.train"}) from error

    is_semantic = formats()[data.format].task == "semantic"
    names: dict[int, str] | None = None
    train = read(data.train, data.train_images, data.train_masks, "train")
    if not train.table.num_rows:
        report(Finding("no-images", f"data.train: {data.train}", "has no images that could be read"))
    elif is_semantic and are_unnamed(train.categories):
        text = f"its {len(train.categories):,} classes have no names, so the model calls them class 0, class 1, ...; "
        text += "data.names gives them, or a file beside the masks such as names.txt"
        report(Finding("unnamed-classes", f"data.train: {data.train}", text))
    if data.val is not None:
        if is_semantic and data.names is None and data.palette is None and not are_unnamed(train.categories):
            names = {category.id: category.name for category in train.categories}
        try:
            val = read(data.val, data.val_images, data.val_masks, "val")
        except UsageError as error:
            raise error.in_words(_OF_VAL) from error
        if not val.table.num_rows:
            report(Finding("no-images", f"data.val: {data.val}", "has no images that could be read"))
        return train, _with_categories(val, train, data.val, report)
    return split_dataset(train, data)


def split_dataset(dataset: Dataset, data: DataConfig) -> tuple[Dataset, Dataset | None]:
    """Returns ``dataset`` as ``data.split`` and its fellows divide it. Raises UsageError where they cannot."""
    if data.split is None or not dataset.table.num_rows:
        return dataset, None
    uris = dataset.table["uri"].to_pylist()
    keys = None if data.group_by is None else group_keys(uris, data.group_by, None, "data.group_by")
    labels = [[segment["category"] for segment in row["segments"]] for row in dataset.rows()]
    is_train = split_images(labels, data.split, seed=data.split_seed, groups=keys, stratify=data.stratify)
    ours, theirs = (dataset.table.filter(pa.array(chosen)).combine_chunks() for chosen in (is_train, ~is_train))
    return Dataset(dataset.categories, ours), Dataset(dataset.categories, theirs)


def _with_categories(val: Dataset, train: Dataset, place: str, report: Report) -> Dataset:
    """Gives ``val`` the categories of ``train``, by name, and drops the segments of those that train lacks."""
    if val.categories == train.categories:
        return val
    places = {category.name: index for index, category in enumerate(train.categories)}
    used = {val.categories[segment["category"]].name for row in val.rows() for segment in row["segments"]}
    theirs = [category.name for category in val.categories if category.name not in places]
    for kind, what, some in (
        ("unknown-category", "categories", [name for name in theirs if name in used]),
        ("unused-category", "unused categories", [name for name in theirs if name not in used]),
    ):
        if some:
            report(Finding(kind, f"data.val: {place}", f"has {what} that data.train lacks: {examples(some, 5)}"))
    moved = np.array([places.get(category.name, -1) for category in val.categories])
    rows = val.table.to_pylist()
    for row in rows:
        for segment in row["segments"]:
            segment["category"] = int(moved[segment["category"]])
        row["segments"] = [segment for segment in row["segments"] if segment["category"] >= 0]
    return Dataset(train.categories, pa.Table.from_pylist(rows, schema=val.table.schema))
