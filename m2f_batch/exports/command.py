"""Exports a run in another format, whole or not at all: ``m2f-batch export``."""

import tempfile
from pathlib import Path

from m2f_batch.datasets.format import Target, run_targets
from m2f_batch.errors import UsageError
from m2f_batch.exports.ids import CocoIds, coco_ids
from m2f_batch.exports.run_images import RunImages
from m2f_batch.messages.terminal import say
from m2f_batch.runs.info import RunInfo
from m2f_batch.runs.reader import open_run
from m2f_batch.storage.places import writable_file, writable_folder

SPLIT = "run"  # all that is exported


def export(run_uri: str, dest: str, form: str, ground_truth: str | None = None) -> int:
    """Writes a run to ``dest`` in ``form`` and returns 0.

    Raises UsageError for what cannot be exported, and where no image would be in it.
    """
    known = run_targets()
    if form not in known:
        raise UsageError("is not known", field="--format", value=form, allowed=", ".join(known))
    run = open_run(run_uri)
    target = known[form]
    if target.suffix:
        place = writable_file(dest, "DEST", run=run.uri, read=[ground_truth])
    else:
        place = writable_folder(dest, "DEST", is_new=True)
    counts = run.info.images
    if not counts.ok:
        left = f"{counts.error:,} failed, {counts.remaining:,} remain"
        raise UsageError(f"{run.uri} has no labelled image to export ({left})", field="RUN")
    if run.info.task not in target.writes_tasks:
        problem = f"is for {' and '.join(sorted(target.writes_tasks))}; {run.uri} is {run.info.task}"
        raise UsageError(problem, field="--format", value=form)
    ids = coco_ids(run, ground_truth)
    with tempfile.TemporaryDirectory() as folder:
        staged = Target(dest=place.uri, staging=Path(folder), option=f"--format {form}", source="RUN")
        said = [*target.written({SPLIT: RunImages(run, ids)}, staged)]
        if len(ids.unmatched) == counts.ok:
            raise UsageError(f"--ground-truth {ground_truth}: it holds none of the images that are labelled")
        if target.suffix:
            place.store.upload(Path(folder) / SPLIT, place.uri)
    _say(run.info, ids, dest)
    say(*said)
    return 0


def _say(info: RunInfo, ids: CocoIds, dest: str) -> None:
    counts = info.images
    images = counts.ok - len(ids.unmatched)
    segments = ids.written.total()
    say(f"{dest}: {images:,} images, {segments:,} segments; licence of the model's weights: {info.model.license}")
    if not segments:
        say("warning: there is no segment to export, and pycocotools takes no empty list of results")
    for note in ids.notes:
        say(f"note: {note}")
    left_out = [label.name for label in info.categories if label.id not in ids.category_ids]
    if left_out:
        say(f"left out, since --ground-truth does not name them: {', '.join(left_out)}")
    if ids.unmatched:
        say(f"left out: {len(ids.unmatched):,} images that --ground-truth does not hold, e.g. {min(ids.unmatched)}")
    if counts.error or counts.remaining:
        say(f"left out: {counts.error:,} images that failed, {counts.remaining:,} that remain")
