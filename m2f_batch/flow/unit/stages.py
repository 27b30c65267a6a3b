"""Does the stages of one unit without Ray: fetch and prepare, label, commit.

What each stage spent on a unit travels along as ``seconds``, so that the driver can name the bottleneck: ``fetch``
(waiting for bytes), ``decode`` (CPU seconds of decoding and resizing), what a segmenter says of itself, and ``write``.
"""

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypedDict, TypeVar

import pyarrow as pa

from m2f_batch.errors import ImageError, TransientError
from m2f_batch.flow.unit.labeler import Labeled, Labeler
from m2f_batch.flow.unit.units import (
    DONE_SCHEMA,
    LABELED_SCHEMA,
    PREPARED_SCHEMA,
    items_of,
    packed,
    prepared_array,
    prepared_of,
    rows_of,
    sidecars_of,
    unit_row,
    unit_table,
)
from m2f_batch.inputs.fetch import fetch_many
from m2f_batch.models.preprocess_plan import PreprocessPlan
from m2f_batch.records import ImageRef, Row, error_row, ok_row, table_of
from m2f_batch.runs.directory import RunDirectory
from m2f_batch.runs.tally import Tally
from m2f_batch.runs.writing.commit import commit
from m2f_batch.runs.writing.sidecars import Sidecars
from m2f_batch.storage.retries import retried
from m2f_batch.vision.cuts.view import Cut
from m2f_batch.vision.label_settings import Labeling
from m2f_batch.vision.pixels.prepared import Prepared

__all__ = ["LABELED_SCHEMA", "commit_unit", "label_unit", "prepare_unit", "unit_table"]
Item = TypeVar("Item")
COMMITTED_BEFORE = "committed before"  # in place of a reason: the unit is done, and storage knows what came of it


class Preparing(TypedDict):
    """The settings of ``prepare_unit``, which are those of every unit of a run."""

    plan: PreprocessPlan
    cut: Cut
    max_pixels: int
    threads: int


def preparing(labeling: Labeling, max_pixels: int, threads: int) -> Preparing:
    """Return how the images of a unit are fetched, in so many ``threads``, decoded and made into pixel values."""
    return {"plan": labeling.preprocess, "cut": labeling.cut, "max_pixels": max_pixels, "threads": threads}


def prepare_unit(table: pa.Table, *, plan: PreprocessPlan, cut: Cut, max_pixels: int, threads: int) -> pa.Table:
    """Fetch, decode and resize every image of one unit. A failed one carries its reason along."""
    import torch

    from m2f_batch.vision.pixels.preprocess import prepare_image

    torch.set_num_threads(1)  # one task, one CPU. A resize in uint8 does not depend on it
    spent = Spent()

    def prepared(refs: list[ImageRef]) -> Iterator[Prepared | ImageError]:
        for _, data in _clocked(fetch_many(refs, threads=threads), spent.seconds):
            begun = time.thread_time()  # not the clock: what another process takes of this core is not our decoding
            yield data if isinstance(data, ImageError) else prepare_image(data, plan, max_pixels, cut)
            spent.seconds["decode"] += time.thread_time() - begun
            spent.bytes += 0 if isinstance(data, ImageError) else len(data)

    return prepare_unit_by(table, prepared, spent)


@dataclass
class Spent:
    """On one unit: seconds by stage, and bytes read."""

    seconds: dict[str, float] = field(default_factory=lambda: {"fetch": 0.0, "decode": 0.0})
    bytes: int = 0


def prepare_unit_by(
    table: pa.Table, prepare: Callable[[list[ImageRef]], Iterable[Prepared | ImageError]], spent: Spent
) -> pa.Table:
    """A unit with what ``prepare`` makes of each of its images: a Prepared or an ImageError."""
    (unit,) = table.to_pylist()
    refs = [ImageRef(image["uri"], image["version"]) for image in unit["images"]]
    before, transient = retried(), None
    try:
        results = [*prepare(refs)]
    except TransientError as error:
        refs, results, transient = [], [], str(error)
    facts = {"unit": unit["unit"], "transient": transient, "seconds": [*spent.seconds.items()], "bytes": spent.bytes}
    return unit_row(PREPARED_SCHEMA, {**facts, "retries": retried() - before}, prepared_array(refs, results))


def skipped_unit(table: pa.Table, why: str) -> pa.Table:
    """Return a unit that nobody prepares: its images remain."""
    facts = {"unit": table["unit"][0].as_py(), "transient": why, "seconds": [], "bytes": 0, "retries": 0}
    return unit_row(PREPARED_SCHEMA, facts, prepared_array([], []))


def label_unit(table: pa.Table, segmenter: Labeler) -> pa.Table:
    """Return rows of one prepared unit, in the order of its images."""
    (unit,) = table.drop_columns(["images"]).to_pylist()
    try:
        labeled = [*_label(items_of(table, "images"), segmenter)]
    except TransientError as error:  # the process that labels image by image could not be had
        labeled, unit["transient"] = [], str(error)
    if unit["transient"] is None:  # a unit without images does not count, and must not take what others spent
        # since the segmenter was last asked: units that it had at the same time share it by chance
        unit["seconds"] = [*unit["seconds"], *segmenter.take_seconds().items()]
    unit["replica"] = f"{socket.gethostname()}:{os.getpid()}"
    unit["forward"] = None if segmenter.checked is None else str(segmenter.checked)
    sidecars: dict[str, list[pa.Table]] = {}
    for row, beside in labeled:
        for name, sidecar in beside.items():
            ids = pa.array([row["image_id"]] * len(sidecar), pa.int64())
            sidecars.setdefault(name, []).append(sidecar.add_column(0, "image_id", ids))
    unit["sidecars"] = packed(sidecars)
    rows = table_of([row for row, _ in labeled])
    return unit_row(LABELED_SCHEMA, unit, rows.to_struct_array().combine_chunks())


def commit_unit(table: pa.Table, *, run: RunDirectory) -> pa.Table:
    """Write the rows of one labeled unit and their sidecars, and say how many there were of what."""
    (unit,) = table.drop_columns(["rows", "sidecars"]).to_pylist()
    tally, before = Tally(), retried()
    if unit["transient"] is None:
        try:
            tally.add(commit(run, unit["unit"], rows_of(table), sidecars_of(table)))
        except TransientError as error:
            unit["transient"] = str(error)
    done = {
        **{name: unit[name] for name in ("unit", "transient", "seconds", "bytes", "replica", "forward")},
        "retries": (unit["retries"] or 0) + retried() - before,
        "ok": tally.ok,
        "error": tally.error,
        "segments": tally.segments,
        "reasons": list(tally.reasons.items()),
        "strangers": tally.strangers,
    }
    return pa.Table.from_pylist([done], schema=DONE_SCHEMA)


def _clocked(items: Iterable[Item], seconds: dict[str, float]) -> Iterator[Item]:
    """Pass items on. ``seconds`` grows by the time that was spent on waiting for them."""
    left = iter(items)
    while True:
        begun = time.perf_counter()
        try:
            item = next(left)
        except StopIteration:
            return
        finally:
            seconds["fetch"] += time.perf_counter() - begun
        yield item


def _label(images: pa.StructArray, segmenter: Labeler) -> Iterator[tuple[Row, Sidecars]]:
    refs, items = prepared_of(images)
    prepared = [item for item in items if isinstance(item, Prepared)]
    results = iter(zip(prepared, segmenter.label(prepared), strict=True))
    for ref, item in zip(refs, items, strict=True):
        if isinstance(item, ImageError):
            yield error_row(ref, item), {}
            continue
        image, result = next(results)
        if isinstance(result, ImageError):
            yield error_row(ref, result), {}
        elif isinstance(result, Labeled):
            yield ok_row(ref, image.output_hw, result.segments), result.sidecars
        else:
            yield ok_row(ref, image.output_hw, result), {}
