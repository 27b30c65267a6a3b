"""Converts a dataset of any format to COCO or YOLO, split or whole: ``m2f-batch convert``."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from m2f_batch.config.data import ClassNames, Palette
from m2f_batch.datasets.annotated import DatasetImages
from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.files import Row
from m2f_batch.datasets.findings import NOTES, Finding, examples, near_names_last, stop
from m2f_batch.datasets.format import Format, Target, dataset_targets
from m2f_batch.datasets.lint.faultless import Dropping, Faultless, faultless
from m2f_batch.datasets.lint.kinds import KINDS
from m2f_batch.datasets.lint.splits import name_findings
from m2f_batch.datasets.pixel_cap import pixel_cap
from m2f_batch.datasets.reading import option_names, read_dataset
from m2f_batch.datasets.splits.groups import group_keys
from m2f_batch.datasets.splits.split import split_images
from m2f_batch.errors import UsageError, renamed
from m2f_batch.messages.foreign_words import meant_value
from m2f_batch.storage import uris
from m2f_batch.storage.places import Place, stat_many, writable_place
from m2f_batch.storage.store import ObjectError, StoreUnavailable

LEFT_OUT = "left-out.csv"  # beside what is written


@dataclass(frozen=True)
class Converted:
    """The end of ``convert``.

    Attributes:
        dest: where that is.
        images: the number of images by split, ``train`` and ``val``.
        left_out: the number of images that were left out for their faults.
        lines: what a person must know: what is in each split, and what the format cannot hold.
    """

    dest: str
    images: Mapping[str, int]
    left_out: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class SplitOptions:
    """The split that is asked for.

    ``share`` is the part of the images to train on, None for no split. The others are those of ``split_images``.
    """

    share: float | None = None
    seed: int | None = None
    stratify: bool = False
    group_by: str | None = None
    groups: str | None = None


def convert(
    source: str,
    dest: str,
    form: str,
    to: str,
    *,
    images: str | None = None,
    masks: str | None = None,
    ignore_index: int | None = None,
    do_reduce_labels: bool = False,
    crowd_as_object: bool = False,
    names: ClassNames | None = None,
    mask_suffix: str | None = None,
    palette: Palette | None = None,
    max_pixels: int | None = None,
    part: str = "train",
    split: SplitOptions | None = None,
    dropping: Dropping | None = None,
) -> Converted:
    """Writes ``source`` to ``dest``, and returns what is in each split, with lines for a person.

    ``dropping`` leaves out the images that have faults, and lists them beside what is written.

    DEST of a format that is one file is the file, or a folder for ``annotations.json``, or for ``train.json`` and
    ``val.json``. Its images stay where they are. Raises UsageError before anything is written.
    """
    split = split or SplitOptions()
    target = _target_format(to)
    place = writable_place(dest, "DEST")
    _check_options(split)
    options: dict[str, Any] = {"ignore_index": ignore_index, "do_reduce_labels": do_reduce_labels, "split": part}
    options |= {"names": names, "mask_suffix": mask_suffix, "palette": palette, "crowd_as_object": crowd_as_object}
    read = partial(read_dataset, form, source, images, masks, **options, max_pixels=max_pixels)
    left: Faultless | None = None
    with near_names_last(_report) as report:
        try:
            if dropping is None:
                dataset = read(report=report)
                splits = _divided(sorted(dataset.rows(), key=lambda row: row["uri"]), split)
            else:
                with pixel_cap(max_pixels):
                    dataset, left = faultless(read, source, form, dropping, report, are_things=not target.writes_stuff)
                left.check({"train": left.rows}, source)
                splits = left.drop_leaks(_divided(left.rows, split))
                left.check(splits, source)
        except UsageError as error:
            raise error.in_words(option_names("SRC", "--from")) from error
        if not any(splits.values()):
            raise UsageError("has no images", field="SRC", value=source)
        return _written(dataset, splits, target, place, left)


def _target_format(to: str) -> Format:
    known = dataset_targets()
    if to not in known:
        hint = meant_value(to, known)
        raise UsageError("is not known", field="--to", value=to, allowed=", ".join(known), hint=hint)
    return known[to]


def _written(
    dataset: Dataset, splits: Mapping[str, list[Row]], target: Format, place: Place, left: Faultless | None
) -> Converted:
    """Writes all, and returns what."""
    base = common_folder([row["uri"] for rows in splits.values() for row in rows])
    try:
        is_file = bool(target.suffix) and place.uri.endswith(target.suffix)
        names = f"{place.uri.removesuffix(target.suffix)}.{LEFT_OUT}" if is_file else f"{place.uri}/{LEFT_OUT}"
        if left is not None and place.store.exists(names):
            raise _is_there(names)
        images = {split: DatasetImages(dataset, rows, base) for split, rows in splits.items()}
        lines = _write(target, images, place, base)
        if left is not None:
            place.store.write(names, left.table())
            lines += left.lines(names)
    except (ObjectError, StoreUnavailable) as error:
        raise UsageError.about("DEST", error) from error
    counts = {split: len(rows) for split, rows in splits.items()}
    left_out = 0 if left is None else len(left.faults)
    return Converted(place.uri, counts, left_out, (*_counts(dataset, splits), *lines))


def _write(target: Format, images: Mapping[str, DatasetImages], dest: Place, base: str) -> list[str]:
    """Writes the splits, whole or not at all where each is a file."""
    names = _file_names(target, [*images], dest.uri)
    for name in names.values():
        if dest.store.exists(name):
            raise _is_there(name)
    with tempfile.TemporaryDirectory() as folder:
        option, hint = f"--to {target.name}", "--images names their folder"
        place = Target(dest=dest.uri, staging=Path(folder), option=option, source="SRC", hint=hint)
        lines = [*target.written(images, place)]
        for split, name in names.items():
            dest.store.upload(Path(folder) / split, name)
    return [*_of_images_that_stay(names, images, base), *lines] if names else lines


def _file_names(target: Format, splits: Sequence[str], dest: str) -> dict[str, str]:
    """Names the file of each split. There is none where a folder is written."""
    if not target.suffix:
        return {}
    is_file = dest.endswith(target.suffix)
    if len(splits) == 1:
        return dict.fromkeys(splits, dest if is_file else f"{dest}/annotations{target.suffix}")
    if is_file:
        raise UsageError("is one file, and --split writes two", field="DEST", value=dest, hint="give a folder")
    return {split: f"{dest}/{split}{target.suffix}" for split in splits}


def _of_images_that_stay(names: Mapping[str, str], images: Mapping[str, DatasetImages], base: str) -> Iterator[str]:
    yield f"wrote {', '.join(names.values())}"
    yield f"images stay where they are: data.train_images: {base or '(any)'}"
    local = [row["uri"] for each in images.values() for row in each.rows if not uris.root(row["uri"])]
    absent = [uri for uri, entry in zip(local, stat_many(local), strict=True) if entry is None]
    if absent:
        text = f"warning: {len(absent):,} of {len(local):,} images are not there ({examples(absent)})"
        yield f"{text}: m2f-batch lint names them, --drop-faulty leaves them out, --images names their folder"


def _is_there(name: str) -> UsageError:
    return UsageError("is there already", field="DEST", value=name, hint="remove it, or choose another DEST")


def _report(finding: Finding) -> None:
    """The strict report in our words, which says how to go on without what is faulty."""
    text = renamed(finding.text, option_names("SRC", "--from"))
    if finding.kind not in NOTES and finding.image is not None:
        text += "; m2f-batch lint shows all such images, and --drop-faulty leaves them out"
    stop(replace(finding, text=text))


def _check_options(split: SplitOptions) -> None:
    if split.share is None:
        given = {
            "--seed": split.seed is not None,
            "--stratify": split.stratify,
            "--group-by": split.group_by is not None,
        }
        for flag, is_given in given.items():
            if is_given:
                raise UsageError("goes with --split, the share to train on", field=flag, hint="give 0.8, for example")
    elif not 0 < split.share < 1:
        raise UsageError(f"must be the share to train on, between 0 and 1; got {split.share}", field="--split")
    if split.groups is not None and split.group_by is None:
        raise UsageError("goes with --group-by column:NAME", field="--groups")


def _divided(rows: list[Row], split: SplitOptions) -> dict[str, list[Row]]:
    """Returns the rows of each split."""
    if split.share is None:
        return {"train": rows}
    names = [row["uri"] for row in rows]
    labels = [{segment["category"] for segment in row["segments"]} for row in rows]
    groups = group_keys(names, split.group_by, split.groups) if split.group_by is not None else None
    is_train = split_images(labels, split.share, seed=split.seed or 0, groups=groups, stratify=split.stratify)
    return {
        name: [rows[number] for number in np.flatnonzero(chosen)]
        for name, chosen in (("train", is_train), ("val", ~is_train))
    }


def common_folder(names: Sequence[str]) -> str:
    """Finds the deepest folder that holds all, "" where there is none, as of two buckets.

    >>> common_folder(["/data/a/x.jpg", "/data/ab.jpg"])
    '/data'
    """
    folders = [uris.parent(name).split("/") for name in names]
    shared = []
    for parts in zip(*folders, strict=False):
        if len({*parts}) > 1:
            break
        shared.append(parts[0])
    folder = "/".join(shared) or ("/" if all(name.startswith("/") for name in names) else "")
    return folder if not folder.endswith(":/") and not folder.endswith(":") else ""


def _counts(dataset: Dataset, splits: Mapping[str, list[Row]]) -> list[str]:
    lines, found = [], dict[str, set[int]]()
    for split, rows in splits.items():
        labels = Counter(segment["category"] for row in rows for segment in row["segments"])
        found[split] = {*labels}
        bare = sum(not row["segments"] for row in rows)
        lines.append(
            f"{split:5} {len(rows):,} images ({bare:,} without labels), {labels.total():,} labels "
            f"of {len(labels):,} of {len(dataset.categories):,} categories"
        )
    lines += [f"warning: {finding}; {KINDS[finding.kind].advice}" for finding in name_findings(dataset, "SRC")]
    for split, other in (("train", "val"), ("val", "train")):
        alone = [
            dataset.categories[number].name for number in sorted(found.get(split, set()) - found.get(other, set()))
        ]
        if len(splits) > 1 and alone:
            lines.append(f"only in {split}: {', '.join(alone)}")
    return lines
