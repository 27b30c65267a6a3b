"""The results of runs: ``open_run``, ``evaluate``, ``export`` and ``verify`` as functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from m2f_batch.api.words import OF_RUN, name_of, reading_of, several, text_of, uri_of
from m2f_batch.config.data import ClassNames, Palette
from m2f_batch.config.keywords import Place, place_of
from m2f_batch.config.segment import Task
from m2f_batch.errors import in_arguments, without_flags
from m2f_batch.runs import reader
from m2f_batch.runs.info import ImageCounts
from m2f_batch.runs.inspect.verify import verify_run
from m2f_batch.runs.reader import Run


@dataclass(frozen=True)
class Evaluation:
    """The figures of a run against a ground truth.

    Attributes:
        run: the run directory.
        run_id: the run's id.
        task: the run's task.
        ground_truth: what it was measured against.
        format: the format of that.
        metrics: figures by name, ``AP``, ``PQ``, ``mIoU`` and the like, as shares of 1; None where nothing could be
            measured.
        classes: a row for each class: ``id``, ``name``, ``isthing``, and the figures of the class.
        measured: the number of annotated images that were measured.
        rows: counts of images: ``ok``, ``error``, ``remaining``, ``without_row`` and ``not_annotated``.
        warnings: what a reader of the figures must know, one sentence each.
    """

    run: str
    run_id: str
    task: Task
    ground_truth: str
    format: str
    metrics: Mapping[str, float | None]
    classes: pa.Table
    measured: int
    rows: Mapping[str, int]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Verification:
    """The proof of a run, from its files alone.

    Attributes:
        run: the run directory.
        run_id: the run's id.
        problems: one sentence each. None: every listed image has exactly one row that is sound, or remains.
        is_finished: whether ``_SUCCESS`` is there.
        listed: the number of images that were listed, the sum of the next three.
        ok: the number of images that were labeled.
        error: the number of images that failed.
        remaining: the number of images that have no row yet.
        staged: how many of those are done, in files that are not whole yet.
        segments: the number of segments in all rows.
    """

    run: str
    run_id: str
    problems: tuple[str, ...]
    is_finished: bool
    listed: int
    ok: int
    error: int
    remaining: int
    staged: int
    segments: int


def open_run(run: Place) -> Run:
    """Open a run to read, finished or not: what it says of itself, its rows, and its images. Nothing is written.

    ``run`` is the directory or URI that ``segment`` wrote. Raises ArgumentError, a ValueError, where there is none, and
    RunError where its run.json is damaged.

    Source: the files of a run directory, which docs/reference/run-directory.md describes.

        run = open_run("demo-run")
        run.info.task, run.table(["uri", "segments"]).num_rows  # ('instance', 25)
    """
    with in_arguments(OF_RUN):
        return reader.open_run(uri_of(run))


def evaluate(
    run: Place | Run,
    ground_truth: Place,
    *,
    metrics: str | Sequence[str] | None = None,
    partial: bool = False,
    format: str | None = None,
    images: Place | None = None,
    masks: Place | None = None,
    ignore_index: int | None = None,
    do_reduce_labels: bool = False,
    crowd_as_object: bool = False,
    names: ClassNames | None = None,
    mask_suffix: str | None = None,
    palette: Palette | None = None,
    max_pixels: int | None = None,
    part: str = "val",
) -> Evaluation:
    """Measure the rows of a run against annotated images: mask AP, PQ, mIoU, Dice and boundary IoU, by class.

    Nothing is written or printed.

    Args:
        run: the run directory, or a run that was opened.
        ground_truth: annotations: a COCO JSON, a panoptic JSON, a folder of PNGs, a ``data.yaml``, ...
        metrics: some of ap, pq, miou, dice and boundary-iou; those of the run's task if None.
        partial: measure a run that is not finished.
        format: that of the ground truth; found out if None.
        images: folder of its images; beside the annotations if None.
        masks: folder of its PNGs, of formats that have one.
        ignore_index: value of pixels that are ignored, from 0 to 65535.
        do_reduce_labels: 0 is background, and class ids are values less 1.
        crowd_as_object: masks with ``iscrowd: 1`` are objects.
        names: names of the classes: a file, a list from 0, or a map of ids.
        mask_suffix: ending of the masks' names, where images have another.
        palette: the color of each class: a file, or a map of names or ids to [r, g, b].
        max_pixels: of one image or mask, checked before it is decoded.
        part: which part of a ``data.yaml``.

    Raises ArgumentError, a ValueError, for a ground truth that cannot be read, or does not fit the run, and RunError
    for a run that is not finished, unless ``partial``.

    Source: AP is pycocotools' of COCO (Lin et al. 2014), PQ that of Kirillov et al. 2019, boundary IoU that of Cheng et
    al. 2021; docs/reference/metrics.md defines each.

        evaluate("labels/", "val.json").metrics["AP"]
    """
    from m2f_batch.evaluation.command import evaluate as measure
    from m2f_batch.evaluation.evaluator import METRICS
    from m2f_batch.evaluation.ground_truth import GroundTruth

    with in_arguments(OF_RUN):
        reading = reading_of(
            ignore_index=ignore_index,
            do_reduce_labels=do_reduce_labels,
            crowd_as_object=crowd_as_object,
            names=names,
            mask_suffix=mask_suffix,
            palette=palette,
            max_pixels=max_pixels,
        )
        truth = GroundTruth(
            uri=place_of(ground_truth, "ground_truth"),
            form=None if format is None else name_of(format, "format"),
            images=text_of(images, "images"),
            masks=text_of(masks, "masks"),
            **reading,
            part=name_of(part, "part"),
        )
        known = ", ".join(dict.fromkeys(name for names_of_task in METRICS.values() for name in names_of_task))
        asked = None if metrics is None else several(metrics, "metrics", f"one or a list of {known}")
        opened = run if isinstance(run, Run) else reader.open_run(uri_of(run))
        found = measure(opened, truth, metrics=asked, is_partial=partial)
    return _evaluation_of(found)


def _evaluation_of(found: Mapping[str, Any]) -> Evaluation:
    return Evaluation(
        run=found["run"],
        run_id=found["run_id"],
        task=found["task"],
        ground_truth=found["ground_truth"],
        format=found["format"],
        metrics=found["metrics"],
        classes=pa.Table.from_pylist(found["classes"]),
        measured=found["images"],
        rows=found["rows"],
        warnings=tuple(without_flags(text, OF_RUN) for text in found["warnings"]),
    )


@dataclass(frozen=True)
class Export:
    """The end of an export.

    Attributes:
        dest: the file or folder.
        exported: the number of images in it.
        segments: the number of segments in it.
        images: counts of the run, of which those that failed or remain are not exported.
        license: the license of the model's weights, None where none is known.
        lines: what a person must know: what was left out and why, and what the format cannot hold.
    """

    dest: str
    exported: int
    segments: int
    images: ImageCounts
    license: str | None
    lines: tuple[str, ...]


def export(run: Place | Run, dest: Place, format: str = "coco", *, ground_truth: Place | None = None) -> Export:
    """Write the rows of a run in another format, whole or not at all.

    Args:
        run: the run directory, or a run that was opened.
        dest: the file or folder to write.
        format: ``coco``, ``coco-results``, ``coco-panoptic``, ``yolo``, ...: an unknown one is answered with all.
        ground_truth: a COCO JSON whose ids of images and categories are taken; else images are 1, 2, 3, ... by URI, and
            categories have the ids of a known label set, or the label id + 1.

    Raises ArgumentError, a ValueError, for what cannot be exported, and where no image would be in it: nothing was
    written.

    Source: the formats of cocodataset.org and docs.ultralytics.com; masks are held to the pixel.

        export("labels/", "labels.json").exported
        # 24
    """
    from m2f_batch.exports.command import export as write

    with in_arguments(OF_RUN):
        done = write(
            uri_of(run), place_of(dest, "dest"), name_of(format, "format"), text_of(ground_truth, "ground_truth")
        )
    others = [*done.lines()][1:]  # the first says what the fields say
    return Export(
        dest=done.dest,
        exported=done.images,
        segments=done.ids.written.total(),
        images=done.info.images,
        license=done.info.model.license,
        lines=tuple(without_flags(line, OF_RUN) for line in others),
    )


def verify(run: Place | Run) -> Verification:
    """Prove from storage alone that a run lost nothing and doubled nothing, and that its masks are what they say.

    ``run`` is the run directory, or a run that was opened. Every file is read; nothing is written or printed. Raises
    ArgumentError, a ValueError, where there is no run, and RunError where its run.json is damaged.

    Source: the promises of docs/explanation/durability.md.

        verify("labels/").problems
        # ()
    """
    with in_arguments(OF_RUN):
        found = verify_run(uri_of(run))
    return Verification(
        run=found["run"],
        run_id=found["run_id"],
        problems=tuple(found["problems"]),
        is_finished=found["finished"],
        **found["images"],
        segments=found["segments"],
    )
