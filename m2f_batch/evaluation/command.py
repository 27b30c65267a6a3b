"""Measures the rows of a run against annotated images. ``commands/evaluate`` holds its arguments and printing."""

import posixpath
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.format import formats
from m2f_batch.errors import Plain, RunError, UsageError
from m2f_batch.evaluation.class_numbers import check_numbers, in_label_ids, other_readings
from m2f_batch.evaluation.evaluator import METRICS, Evaluator, metrics_of
from m2f_batch.evaluation.ground_truth import GroundTruth, category_places
from m2f_batch.evaluation.pairing import pair_by_uri
from m2f_batch.exports.ids import spelled_otherwise
from m2f_batch.exports.run_images import file_name
from m2f_batch.messages.colors import is_live
from m2f_batch.messages.notes import is_heard
from m2f_batch.messages.terminal import is_quiet
from m2f_batch.runs.info import RunInfo
from m2f_batch.runs.reader import Run
from m2f_batch.storage.s3.settings import recorded, using

COLUMNS = ["uri", "height", "width", "status", "segments"]
OBJECT_METRICS = frozenset({"ap", "pq"})  # of a truth that tells objects apart


def evaluate(
    run: Run, truth: GroundTruth, *, metrics: Sequence[str] | None = None, is_partial: bool = False
) -> dict[str, Any]:
    """Measure a run, and return the figures with all that belongs to them.

    Raises UsageError for a ground truth that cannot be read or does not fit, RunError for a run that is not finished.
    """
    info = run.info
    if not run.is_finished() and not is_partial:
        left = f"{info.images.remaining:,} of {info.images.listed:,} images remain"
        raise RunError(
            f"is not finished: {left}; go on with it, or measure what is there by --partial",
            field="RUN",
            value=Plain(run.uri),
        )
    if metrics is not None and not metrics:
        raise UsageError("must name a metric", field="--metrics", allowed=", ".join(METRICS[info.task]))
    asked = metrics_of(info.task, metrics)
    labels, is_reduced = info.categories, truth.do_reduce_labels
    with using(recorded(info.config)):
        form, dataset = truth.read(info.input_uri)
    dataset, notes = in_label_ids(labels, dataset, are_reduced=is_reduced)
    places, more = category_places(labels, dataset, truth.uri)
    evaluator = Evaluator(dataset.categories, info.task, places, _fitting(asked, metrics, form, dataset))
    others = (
        [*other_readings(labels, dataset.categories, are_reduced=is_reduced)] if "miou" in evaluator.metrics else []
    )
    pairs = _pairs(run, truth, dataset)
    counts = measure(run, [evaluator, *(other.evaluator for other in others)], dataset, pairs, is_partial=is_partial)
    check_numbers(evaluator, others, truth.uri)
    _check_measured(evaluator, dataset, truth.uri)
    return {
        "run": run.uri,
        "run_id": info.run_id,
        "task": info.task,
        "ground_truth": truth.uri,
        "format": form,
        "rows": counts,
        "warnings": [*notes, *more, *_spelled(pairs), *_warnings(info, evaluator, places, dataset, counts)],
        **evaluator.summary(),
    }


def measure(
    run: Run, evaluators: Sequence[Evaluator], dataset: Dataset, pairs: Mapping[str, str], *, is_partial: bool
) -> dict[str, int]:
    """Add every annotated image to the evaluators. ``pairs`` maps URIs of listed images to those of the dataset.

    Returns counts of images: ``ok``, ``error``, ``remaining`` (of a run that is not finished: left out),
    ``without_row``, and ``not_annotated``, which have a row alone.
    """
    places = {uri: place for place, uri in enumerate(dataset.table["uri"].to_pylist())}
    counts = Counter(ok=0, error=0, remaining=0, without_row=0, not_annotated=0)
    with _shown(len(places), places):
        for row in (row for table in run.rows(COLUMNS) for row in table.to_pylist()):
            place = places.pop(pairs.get(row["uri"], ""), None)
            if place is None:
                counts["not_annotated"] += 1
                continue
            counts[row["status"]] += 1
            image = _image(dataset, place)
            for evaluator in evaluators:
                evaluator.add(row, image)
    remaining = {*pairs.values()}
    for uri, place in places.items():
        if uri in remaining and is_partial:
            counts["remaining"] += 1
            continue
        counts["without_row"] += 1
        for evaluator in evaluators:
            evaluator.add(None, _image(dataset, place))
    return dict(counts)


@contextmanager
def _shown(total: int, left: Mapping[str, int]) -> Iterator[None]:
    """Show on a terminal how many of ``total`` images have been measured meanwhile, all but those that are ``left``."""
    if not is_heard() or is_quiet() or not is_live(sys.stderr):
        yield
        return
    from m2f_batch.messages.live import LiveTable, Row, bar_of, name_of

    def rows() -> list[Row]:
        done = total - len(left)
        return [(name_of("images"), bar_of(done, total), f"{done:,} of {total:,}")]

    table = LiveTable(rows)
    table.start()
    try:
        yield
    finally:
        table.stop()


def _image(dataset: Dataset, place: int) -> dict[str, Any]:
    return dataset.table.slice(place, 1).to_pylist()[0]


def _pairs(run: Run, truth: GroundTruth, dataset: Dataset) -> dict[str, str]:
    """Uris of the run's images to those of the dataset."""
    wanted = dataset.table["uri"].to_pylist()
    twice = next((uri for uri, count in Counter(wanted).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"has the image {twice!r} twice", field="--ground-truth", value=truth.uri)
    listed = run.listed()["uri"].to_pylist()
    info = run.info
    pairs = pair_by_uri(
        listed, wanted, row_path=lambda uri: file_name(uri, info.input_uri, info.input_root), folder=truth.folder()
    )
    if not pairs:
        shown = f"{wanted[0]!r}, ... and {listed[0]!r}, ..." if listed else "no image is listed"
        raise UsageError(f"and {run.uri} have no image in common ({shown})", field="--ground-truth", value=truth.uri)
    return pairs


def _spelled(pairs: Mapping[str, str]) -> Iterator[str]:
    """Say which images were matched by another spelling of their names."""
    others = {uri: other for uri, other in pairs.items() if posixpath.basename(uri) != posixpath.basename(other)}
    if others:
        yield spelled_otherwise(others)


def _check_measured(evaluator: Evaluator, dataset: Dataset, ground_truth: str) -> None:
    """Raises UsageError where not one figure could be had, with the reason."""
    figures = evaluator.summary()
    if any(value is not None for value in figures["metrics"].values()):
        return
    flags = [segment["iscrowd"] for row in dataset.rows() for segment in row["segments"]]
    if flags and all(flags):
        reason = (
            f"all {len(flags):,} annotations are crowds (iscrowd 1), which are never found nor missed; CVAT marks so "
        )
        reason += "what was drawn by brush: set iscrowd to 0 if they are objects"
    else:
        reason = (
            f"the {figures['images']:,} images that it and the run have in common hold no object of their categories"
        )
    raise UsageError(f"measures nothing: {reason}", field="--ground-truth", value=ground_truth)


def _fitting(asked: frozenset[str], explicit: Sequence[str] | None, form: str, dataset: Dataset) -> frozenset[str]:
    """The metrics that the truth is good for. Raises UsageError for one that was asked for and is not."""
    if any(category.isthing for category in dataset.categories) and formats()[form].task != "semantic":
        return asked
    unfit = asked & OBJECT_METRICS
    if explicit and unfit:
        raise UsageError(
            f"needs a ground truth that tells objects apart; {form} has classes only",
            field="--metrics",
            value=Plain(min(unfit)),
        )
    if not asked - unfit or "ap" in unfit:
        raise UsageError(f"objects cannot be measured against {form}, which has classes only", field="--ground-truth")
    return asked - unfit


def _warnings(
    info: RunInfo, evaluator: Evaluator, places: Mapping[int, int], dataset: Dataset, counts: Mapping[str, int]
) -> Iterator[str]:
    settled = info.postprocess or info.config.get("postprocess") or {}
    cut = settled.get("score_threshold") or 0
    if cut > 0 and "ap" in evaluator.metrics:
        yield (
            f"AP needs all detections, and the run kept those of a score of {cut:g} or more; "
            "label with --set postprocess.score_threshold=0"
        )
    if counts["error"]:
        yield f"{counts['error']:,} annotated images failed in the run: nothing was found in them"
    if counts["without_row"]:
        yield f"{counts['without_row']:,} annotated images have no row: nothing was found in them"
    if counts["remaining"]:
        yield f"{counts['remaining']:,} annotated images remain and are left out"
    if counts["not_annotated"]:
        yield f"{counts['not_annotated']:,} rows are of images that are not annotated, and are left out"
    unknown = [label.name for label in info.categories if label.id not in places]
    if unknown:
        yield f"labels that the ground truth lacks are left out: {', '.join(unknown)}"
    found = {dataset.categories[place].name for place in places.values()}
    missed = [category.name for category in dataset.categories if category.name not in found]
    if missed:
        yield f"categories that the model lacks are never found: {', '.join(missed)}"
