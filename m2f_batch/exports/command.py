"""``m2f-batch export``: which format, whose ids, and the file written whole or not at all."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from m2f_batch.errors import UsageError
from m2f_batch.exports.coco import coco_json, coco_results
from m2f_batch.exports.ids import CocoIds, coco_ids
from m2f_batch.messages.terminal import say
from m2f_batch.runs.info import RunInfo
from m2f_batch.runs.reader import Run, open_run
from m2f_batch.storage.places import writable_file

FORMATS = ("coco", "coco-results")


def export(run_uri: str, dest: str, form: str, ground_truth: str | None = None) -> int:
    """Write a run to ``dest`` in ``form``; returns 0.

    Raises UsageError for what cannot be exported, and where no image would be in it.
    """
    if form not in FORMATS:
        raise UsageError(f"--format: {form!r} is not known; allowed: {', '.join(FORMATS)}")
    run = open_run(run_uri)
    place = writable_file(dest, "DEST", run=run.uri, read=[ground_truth])
    counts = run.info.images
    if not counts.ok:
        left = f"{counts.error:,} failed, {counts.remaining:,} remain"
        raise UsageError(f"RUN: {run.uri} has no labelled image to export ({left})")
    ids = coco_ids(run, ground_truth)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "export.json"
        with file.open("w", encoding="utf-8") as handle:
            handle.writelines(_pieces(run, ids, form))
        if len(ids.unmatched) == counts.ok:
            raise UsageError(f"--ground-truth {ground_truth}: it holds none of the images that are labelled")
        place.store.upload(file, place.uri)
    _say(run.info, ids, dest)
    return 0


def _pieces(run: Run, ids: CocoIds, form: str) -> Iterator[str]:
    return coco_json(run, ids) if form == "coco" else coco_results(run, ids)


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
