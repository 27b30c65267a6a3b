"""``m2f-batch convert``: a dataset of any format as COCO or YOLO, split or whole, with what became of it at the end."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from m2f_batch.datasets.coco.writer import coco_pieces
from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.files import Row
from m2f_batch.datasets.findings import NOTES, Finding, examples, stop
from m2f_batch.datasets.lint.faultless import Dropping, Faultless, faultless
from m2f_batch.datasets.lint.kinds import KINDS
from m2f_batch.datasets.lint.splits import name_findings
from m2f_batch.datasets.pixel_cap import pixel_cap
from m2f_batch.datasets.reading import read_dataset
from m2f_batch.datasets.splits.groups import group_keys
from m2f_batch.datasets.splits.split import split_images
from m2f_batch.datasets.wording import in_words_of
from m2f_batch.datasets.yolo.writer import Losses, check_names, write_settings, write_side
from m2f_batch.errors import UsageError
from m2f_batch.messages.terminal import say
from m2f_batch.storage import uris
from m2f_batch.storage.places import open_store, stat_many, writable_folder, writable_place
from m2f_batch.storage.store import ObjectError, StoreUnavailable

TARGETS = ("coco", "yolo")
LEFT_OUT = "left-out.csv"  # beside what is written
# what readers call what is an option here
_OPTIONS = {
    "data.train_images": "--images",
    "data.train_masks": "--masks",
    "data.train": "SRC",
    "data.format": "--from",
    "--format": "--from",
    "data.ignore_index": "--ignore-index",
    "data.do_reduce_labels": "--do-reduce-labels",
    "data.names": "--names",
    "data.mask_suffix": "--mask-suffix",
    "data.palette": "--palette",
    "data.crowd_as_object: true": "--crowd-as-object",
    "data.crowd_as_object": "--crowd-as-object",
    "data.max_pixels": "--max-pixels",
}


@dataclass(frozen=True)
class SplitOptions:
    """``share`` of the images to train on, or None for no split; the others mean what ``split_images`` says."""

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
    names: str | None = None,
    mask_suffix: str | None = None,
    palette: str | None = None,
    max_pixels: int | None = None,
    part: str = "train",
    split: SplitOptions | None = None,
    dropping: Dropping | None = None,
) -> int:
    """Write ``source`` to ``dest`` and print what is on each side; returns 0.

    ``dropping``: without the images that have faults, and with a list of these beside what is written.

    COCO: DEST is the JSON, or a folder for ``annotations.json``, with a split for ``train.json`` and ``val.json``;
    images stay where they are. YOLO: DEST is a folder. Raises UsageError before anything is written.
    """
    split = split or SplitOptions()
    _check_target(to, dest)
    _check_options(split)
    options: dict[str, Any] = {"ignore_index": ignore_index, "do_reduce_labels": do_reduce_labels, "split": part}
    options |= {"names": names, "mask_suffix": mask_suffix, "palette": palette, "crowd_as_object": crowd_as_object}
    read = partial(read_dataset, form, source, images, masks, **options, max_pixels=max_pixels)
    left: Faultless | None = None
    try:
        if dropping is None:
            dataset = read(report=_report)
            sides = _sides(sorted(dataset.rows(), key=lambda row: row["uri"]), split)
        else:
            with pixel_cap(max_pixels):
                dataset, left = faultless(read, source, form, dropping, _report, are_things=to == "yolo")
            left.check({"train": left.rows}, source)
            sides = left.drop_leaks(_sides(left.rows, split))
            left.check(sides, source)
    except UsageError as error:
        raise UsageError(in_words_of(_OPTIONS, str(error))) from error
    if not any(sides.values()):
        raise UsageError(f"SRC: {source!r} has no images")
    say(*_written(dataset, sides, to, dest, left))
    return 0


def _check_target(to: str, dest: str) -> None:
    if to not in TARGETS:
        raise UsageError(f"--to: {to!r} is not known; allowed: {', '.join(TARGETS)}")
    writable_place(dest, "DEST")


def _written(dataset: Dataset, sides: dict[str, list[Row]], to: str, dest: str, left: Faultless | None) -> list[str]:
    """Writes all, and what is to be said of it."""
    base = common_folder([row["uri"] for rows in sides.values() for row in rows])
    try:
        place = uris.normalise(dest)
        names = f"{place.removesuffix('.json')}.{LEFT_OUT}" if place.endswith(".json") else f"{place}/{LEFT_OUT}"
        if left is not None and open_store(names).exists(names):
            raise UsageError(f"DEST: {names!r} is there already; remove it, or choose another DEST")
        lines = _to_coco(dataset, sides, base, place) if to == "coco" else _to_yolo(dataset, sides, base, place)
        if left is not None:
            open_store(names).write(names, left.table())
            lines += left.lines(names)
    except (ObjectError, StoreUnavailable) as error:
        raise UsageError(f"DEST: {error}") from error
    return [*_counts(dataset, sides), *lines]


def _report(finding: Finding) -> None:
    """The strict report in our words, which says how to go on without what is faulty."""
    text = in_words_of(_OPTIONS, finding.text)
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
                raise UsageError(f"{flag}: goes with --split SHARE, e.g. --split 0.8")
    elif not 0 < split.share < 1:
        raise UsageError(f"--split: must be the share to train on, between 0 and 1; got {split.share}")
    if split.groups is not None and split.group_by is None:
        raise UsageError("--groups: goes with --group-by column:NAME")


def _sides(rows: list[Row], split: SplitOptions) -> dict[str, list[Row]]:
    if split.share is None:
        return {"train": rows}
    names = [row["uri"] for row in rows]
    labels = [{segment["category"] for segment in row["segments"]} for row in rows]
    groups = group_keys(names, split.group_by, split.groups) if split.group_by is not None else None
    is_train = split_images(labels, split.share, seed=split.seed or 0, groups=groups, stratify=split.stratify)
    return {
        side: [rows[number] for number in np.flatnonzero(chosen)]
        for side, chosen in (("train", is_train), ("val", ~is_train))
    }


def common_folder(names: Sequence[str]) -> str:
    """The deepest folder that holds all; "" where there is none, as of two buckets.

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


def _to_coco(dataset: Dataset, sides: dict[str, list[Row]], base: str, dest: str) -> list[str]:
    store, is_file = open_store(dest), dest.endswith(".json")
    if is_file and len(sides) > 1:
        raise UsageError(f"DEST: {dest!r} is one file, and --split writes two; give a folder")
    names = {"train": dest if is_file else f"{dest}/annotations.json"}
    if len(sides) > 1:
        names = {side: f"{dest}/{side}.json" for side in sides}
    for name in names.values():
        if store.exists(name):
            raise UsageError(f"DEST: {name!r} is there already; remove it, or choose another DEST")
    with tempfile.TemporaryDirectory() as folder:
        for side, rows in sides.items():
            with (Path(folder) / side).open("w", encoding="utf-8") as handle:
                handle.writelines(coco_pieces(dataset, rows, base))
        for side, name in names.items():
            store.upload(Path(folder) / side, name)
    ignored = sum(row["ignored"] is not None for rows in sides.values() for row in rows)
    lines = [f"wrote {', '.join(names.values())}", f"images stay where they are: data.train_images: {base or '(any)'}"]
    local = [row["uri"] for rows in sides.values() for row in rows if not uris.root(row["uri"])]
    absent = [uri for uri, entry in zip(local, stat_many(local), strict=True) if entry is None]
    if absent:
        text = f"warning: {len(absent):,} of {len(local):,} images are not there ({examples(absent)})"
        lines.append(f"{text}: m2f-batch lint names them, --drop-faulty leaves them out, --images names their folder")
    if ignored:
        lines.append(
            f"coco: {ignored:,} images have ignored pixels, kept under a key 'ignored' that COCO does not know"
        )
    return lines


def _to_yolo(dataset: Dataset, sides: dict[str, list[Row]], base: str, dest: str) -> list[str]:
    if not base:
        raise UsageError("--to yolo: the images lie in more than one store; YOLO needs them in one folder")
    names = [uris.below(base, row["uri"]) for rows in sides.values() for row in rows]
    check_names(names)
    writable_folder(dest, "DEST", is_new=True)
    wanted = [row["uri"] for rows in sides.values() for row in rows]
    missing = [name for name, entry in zip(wanted, stat_many(wanted), strict=True) if entry is None]
    if missing:
        counted = f"{len(missing):,} of {len(wanted):,} images are not there, e.g. {missing[0]!r}"
        raise UsageError(f"SRC: {counted}; --images names their folder")
    losses = Losses()
    for side, rows in sides.items():
        losses += write_side(dataset, rows, base, dest, side)
    write_settings(dataset, dest, sides)
    lines = [f"wrote {dest}/data.yaml, images/ and labels/; classes are 0 to {len(dataset.categories) - 1}"]
    return lines + losses.lines()


def _counts(dataset: Dataset, sides: dict[str, list[Row]]) -> list[str]:
    lines, found = [], dict[str, set[int]]()
    for side, rows in sides.items():
        labels = Counter(segment["category"] for row in rows for segment in row["segments"])
        found[side] = {*labels}
        bare = sum(not row["segments"] for row in rows)
        lines.append(
            f"{side:5} {len(rows):,} images ({bare:,} without labels), {labels.total():,} labels "
            f"of {len(labels):,} of {len(dataset.categories):,} categories"
        )
    lines += [f"warning: {finding}; {KINDS[finding.kind].advice}" for finding in name_findings(dataset, "SRC")]
    for side, other in (("train", "val"), ("val", "train")):
        alone = [dataset.categories[number].name for number in sorted(found.get(side, set()) - found.get(other, set()))]
        if len(sides) > 1 and alone:
            lines.append(f"only in {side}: {', '.join(alone)}")
    return lines
