"""Exports a run in another format, whole or not at all: ``m2f-batch export``."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from m2f_batch.datasets.format import Target, run_targets
from m2f_batch.errors import UsageError
from m2f_batch.exports.ids import CocoIds, coco_ids
from m2f_batch.exports.run_images import RunImages
from m2f_batch.messages.foreign_words import meant_value
from m2f_batch.runs.info import RunInfo
from m2f_batch.runs.reader import Run, open_run
from m2f_batch.storage import uris
from m2f_batch.storage.places import writable_file, writable_folder

SPLIT = "run"  # all that is exported


@dataclass(frozen=True)
class Exported:
    """Holds what an export wrote: images and segments by ``ids``, and what the format ``said`` of what it lost."""

    dest: str
    info: RunInfo
    ids: CocoIds
    said: list[str]

    @property
    def images(self) -> int:
        """The number of images that were written."""
        return self.info.images.ok - len(self.ids.unmatched)

    def lines(self) -> Iterator[str]:
        """Yields the lines that tell a person what was written, and what was left out."""
        counts, ids, segments = self.info.images, self.ids, self.ids.written.total()
        of_weights = f"license of the model's weights: {self.info.model.license}"
        yield f"{self.dest}: {self.images:,} images, {segments:,} segments; {of_weights}"
        if not segments:
            yield "warning: there is no segment to export, and pycocotools takes no empty list of results"
        yield from (f"note: {note}" for note in ids.notes)
        left_out = [label.name for label in self.info.categories if label.id not in ids.category_ids]
        if left_out:
            yield f"left out, since --ground-truth does not name them: {', '.join(left_out)}"
        if ids.empty:
            yield f"left out: {ids.empty.total():,} segments that have no pixel"
        if ids.unmatched:
            example = min(ids.unmatched)
            yield f"left out: {len(ids.unmatched):,} images that --ground-truth does not hold, e.g. {example}"
        if counts.error or counts.remaining:
            yield f"left out: {counts.error:,} images that failed, {counts.remaining:,} that remain"
        yield from self.said


def export(run_uri: str, dest: str, form: str, ground_truth: str | None = None) -> Exported:
    """Writes a run to ``dest`` in ``form``.

    Raises UsageError for what cannot be exported, and where no image would be in it.
    """
    known = run_targets()
    if form not in known:
        hint = meant_value(form, known)
        raise UsageError("is not known", field="--format", value=form, allowed=", ".join(known), hint=hint)
    run = open_run(run_uri)
    target = known[form]
    if target.suffix:
        place = writable_file(dest, "DEST", run=run.uri, read=[ground_truth])
    else:
        place = writable_folder(dest, "DEST", is_new=True)
    counts = run.info.images
    if not counts.ok:
        left = f"{counts.error:,} failed, {counts.remaining:,} remain"
        raise UsageError(f"{run.uri} has no labeled image to export ({left})", field="RUN")
    if run.info.task not in target.writes_tasks:
        problem = f"is for {' and '.join(sorted(target.writes_tasks))}; {run.uri} is {run.info.task}"
        raise UsageError(problem, field="--format", value=form)
    run.check_not_listed(place.uri, dest, "DEST")
    if target.suffix:
        _check_replaced(place.uri, dest)
    ids = coco_ids(run, ground_truth)
    if ground_truth is not None:
        _check_in_common(run, ids, ground_truth)
    with tempfile.TemporaryDirectory() as folder:
        staged = Target(dest=place.uri, staging=Path(folder), option=f"--format {form}", source="RUN")
        said = [*target.written({SPLIT: RunImages(run, ids, keeps_empty=target.needs_scores)}, staged)]
        if target.suffix:
            place.store.upload(Path(folder) / SPLIT, place.uri)
    return Exported(dest, run.info, ids, said)


def _check_replaced(uri: str, dest: str) -> None:
    """Raises UsageError where a file on a disk would be replaced that no export has written.

    Objects of a store are replaced unread, because a store gives them whole only.
    """
    if uris.root(uri) or not os.path.isfile(uri):
        return
    with suppress(OSError), open(uri, "rb") as file:
        head = file.read(256).decode(errors="replace")
        ours = (each.begins for each in run_targets().values() if each.suffix)
        if head.strip() and not any(re.match(begins, head) for begins in ours):
            hint = "remove it, or choose another DEST"
            raise UsageError("is there already, and is no earlier export", field="DEST", value=dest, hint=hint)


def _check_in_common(run: Run, ids: CocoIds, ground_truth: str) -> None:
    """Raises UsageError where the ground truth holds no labeled image, before a writer touches DEST."""
    if next(RunImages(run, ids).images(with_segments=False), None) is None:
        raise UsageError("it holds none of the images that are labeled", field=f"--ground-truth {ground_truth}")
    ids.unmatched.clear()
