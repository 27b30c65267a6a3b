"""Annotated images: ``lint`` and ``convert`` as functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Unpack

import pyarrow as pa

from m2f_batch.api.settings import FinetuneSettings
from m2f_batch.api.words import (
    OF_CONVERT,
    OF_FINETUNE,
    OF_LINT,
    Config,
    config_of,
    name_of,
    reading_of,
    several,
    text_of,
)
from m2f_batch.config.data import ClassNames, Palette
from m2f_batch.config.finetune import LintConfig
from m2f_batch.config.keywords import Place, place_of
from m2f_batch.datasets.convert import Converted, SplitOptions
from m2f_batch.datasets.convert import convert as write
from m2f_batch.datasets.lint.command import Tally
from m2f_batch.datasets.lint.command import lint as check
from m2f_batch.datasets.lint.faultless import dropping_of
from m2f_batch.datasets.lint.kinds import KINDS, ignored_kinds
from m2f_batch.datasets.lint.warnings import check_queries
from m2f_batch.errors import in_arguments, without_flags

KINDS_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("is_fault", pa.bool_(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("effect", pa.string(), nullable=False),
        pa.field("advice", pa.string(), nullable=False),
    ]
)
FINDINGS_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("where", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("image", pa.string()),
    ]
)


@dataclass(frozen=True)
class LintReport:
    """The findings of ``lint``.

    Attributes:
        images: the number of images by split, ``train`` and ``val``.
        categories: the names of the classes.
        faults: the kinds found that ruin a training, without those that were ignored. None: the dataset is clean.
        kinds: a row for each kind that was found: ``kind``, ``is_fault``, ``count``, its ``effect`` on a training, and
            ``advice``.
        findings: a row for each finding, the first 10,000 of a kind: ``kind``, ``where`` (file and entry), ``text``,
            and ``image`` (its URI or id) where it is of one.
    """

    images: Mapping[str, int]
    categories: tuple[str, ...]
    faults: tuple[str, ...]
    kinds: pa.Table
    findings: pa.Table


def lint(
    dataset: Place,
    *,
    queries: int | None = None,
    ignore: str | Sequence[str] = (),
    config: Config | None = None,
    **settings: Unpack[FinetuneSettings],
) -> LintReport:
    """Find what would ruin a training in annotated images: every fault, by kind, with examples and advice.

    Nothing stops at the first fault, and nothing is written or printed. Images are read once.

    Args:
        dataset: the annotations.
        queries: of the model that will be trained: an image can have as many objects. Those of the config if None.
        ignore: kinds that are no fault here.
        config: of a training, as ``finetune`` takes it.
        settings: those of ``finetune``: ``format="yolo"`` (coco by default, coco-panoptic, semantic-png, instance-png,
            labelme), ``train_images=``, ``train_masks=``, ``val=``, ``split=0.9``, ``group_by="folder"``, ``names=``.

    Raises ArgumentError, a ValueError, for arguments that are wrong, and annotations that cannot be read at all.

    Source: the faults of public datasets and of exports of annotation tools, each named in ``findings``.

        lint("train.json", train_images="photos/").faults
        # ('missing-image', 'empty-mask')
    """
    places: dict[str, Place | None] = {"dataset": dataset, "output": "-"}
    with in_arguments(OF_LINT):
        made = config_of(LintConfig, OF_FINETUNE, config, places, settings)
        ignored = ignored_kinds(",".join(several(ignore, "ignore")))
        check_queries(queries)
        tally = Tally()
        linted = check(made, queries, tally)
    spoken = partial(without_flags, names=OF_LINT)
    found = [
        {
            "kind": kind,
            "is_fault": tally.is_fault(kind) and kind not in ignored,
            "count": tally.counts[kind],
            "effect": spoken(KINDS[kind].effect),
            "advice": spoken(KINDS[kind].advice),
        }
        for kind in KINDS
        if tally.counts[kind]
    ]
    findings = [
        {"kind": each.kind, "where": each.where, "text": spoken(each.text), "image": _image(each.image)}
        for kept in tally.kept.values()
        for each in kept
    ]
    return LintReport(
        images={split: each.table.num_rows for split, each in (("train", linted.train), ("val", linted.val)) if each},
        categories=tuple(category.name for category in linted.train.categories),
        faults=tuple(tally.faults(ignored)),
        kinds=pa.Table.from_pylist(found, schema=KINDS_SCHEMA),
        findings=pa.Table.from_pylist(findings, schema=FINDINGS_SCHEMA),
    )


def _image(image: str | int | None) -> str | None:
    return None if image is None else str(image)


def convert(
    source: Place,
    dest: Place,
    *,
    format: str,
    to: str,
    images: Place | None = None,
    masks: Place | None = None,
    ignore_index: int | None = None,
    do_reduce_labels: bool = False,
    crowd_as_object: bool = False,
    names: ClassNames | None = None,
    mask_suffix: str | None = None,
    palette: Palette | None = None,
    max_pixels: int | None = None,
    part: str = "train",
    split: float | None = None,
    seed: int | None = None,
    stratify: bool = False,
    group_by: str | None = None,
    groups: Place | None = None,
    drop_faulty: bool = False,
    queries: int | None = None,
    ignore: str | Sequence[str] | None = None,
) -> Converted:
    """Write annotated images of any format as COCO or YOLO, whole or split into train and val.

    Args:
        source: the annotations: a COCO JSON, a ``data.yaml``, a folder of PNGs or of labelme JSONs, ...
        dest: the folder to write; of COCO without a split also the JSON itself.
        format: that of ``source``: coco, coco-panoptic, semantic-png, instance-png, yolo or labelme.
        to: coco or yolo.
        images: folder of the images; beside the annotations if None.
        masks: folder of PNGs, of formats that have one.
        ignore_index: value of pixels that are ignored, from 0 to 65535.
        do_reduce_labels: 0 is background, and class ids are values less 1.
        crowd_as_object: masks with ``iscrowd: 1`` are objects.
        names: names of the classes: a file, a list from 0, or a map of ids.
        mask_suffix: ending of the masks' names, where images have another.
        palette: the color of each class: a file, or a map of names or ids to [r, g, b].
        max_pixels: of one image or mask, checked before it is decoded.
        part: which part of a ``data.yaml``.
        split: share of the images to train on, between 0 and 1; no split if None.
        seed: decides which images are in which split; 0 if None.
        stratify: keep the share of every class in both splits.
        group_by: what stays in one split: ``folder``, ``pattern:REGEX`` with one group, or ``column:NAME``.
        groups: a table with ``uri`` or ``file_name``, and the column of ``group_by``.
        drop_faulty: leave out each image that ``lint`` finds a fault with, and list them in ``left-out.csv``.
        queries: with ``drop_faulty``: of the model to train.
        ignore: with ``drop_faulty``: kinds that are no fault.

    Returns the number of ``images`` by split, how many were ``left_out``, and ``lines`` that say what was lost.

    Raises ArgumentError, a ValueError, for arguments and annotations that are wrong: nothing was written.

    Source: the formats of cocodataset.org and docs.ultralytics.com; masks are held to the pixel in both.

        convert("train.json", "yolo/", format="coco", to="yolo", split=0.8).images
        # {'train': 320, 'val': 80}
    """
    with in_arguments(OF_CONVERT):
        reading = reading_of(
            ignore_index=ignore_index,
            do_reduce_labels=do_reduce_labels,
            crowd_as_object=crowd_as_object,
            names=names,
            mask_suffix=mask_suffix,
            palette=palette,
            max_pixels=max_pixels,
        )
        share = reading_of(split=split, split_seed=seed, group_by=group_by)["split"]
        done = write(
            place_of(source, "source"),
            place_of(dest, "dest"),
            name_of(format, "format"),
            name_of(to, "to"),
            images=text_of(images, "images"),
            masks=text_of(masks, "masks"),
            **reading,
            part=name_of(part, "part"),
            split=SplitOptions(share, seed, stratify, group_by, text_of(groups, "groups")),
            dropping=dropping_of(drop_faulty, queries, None if ignore is None else ",".join(several(ignore, "ignore"))),
        )
    return replace(done, lines=tuple(without_flags(line, OF_FINETUNE) for line in done.lines))
