"""Prove from storage alone that a run lost nothing and doubled nothing, and that its masks are what they say."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from m2f_batch.records import SCHEMA
from m2f_batch.storage.run import RunDirectory, open_existing_run
from m2f_batch.vision.rle import run_lengths


def verify(run: RunDirectory, task: str) -> list[str]:
    """Everything that is wrong with a run, one line each; an empty list is the proof.

    Each listed image has exactly one row and no other row is there; the schema is exact; every ``counts`` decodes to
    its size, ``area`` and ``bbox``; ids count from 1; panoptic and semantic segments are disjoint; the totals are those
    of run.json. Images that run.json calls remaining must have no row.
    """
    problems: list[str] = []
    ids: list[np.ndarray] = []
    counts = {"ok": 0, "error": 0}
    segments = 0
    for file in run.annotation_files():
        table = run.read_annotations(file)
        if not table.schema.equals(SCHEMA):
            problems.append(f"{file}: its schema is not the frozen one")
            continue
        ids.append(table["image_id"].to_numpy())
        for row in table.to_pylist():
            counts[row["status"]] = counts.get(row["status"], 0) + 1
            segments += len(row["segments"])
            problems.extend(f"{row['uri']}: {problem}" for problem in _row_problems(row, task))
    return problems + list(_total_problems(run, ids, counts, segments))


def _row_problems(row: dict[str, Any], task: str) -> Iterator[str]:
    found = row["segments"]
    if row["status"] not in ("ok", "error") or (row["status"] == "error") != (row["error"] is not None):
        yield f"status {row['status']!r} does not go with error {row['error']}"
    if row["status"] == "error" and found:
        yield "an error row has segments"
    if [segment["id"] for segment in found] != list(range(1, len(found) + 1)):
        yield "the ids of its segments do not count from 1"
    if not found:
        return
    size = [row["height"], row["width"]]
    codes = [{"size": size, "counts": segment["counts"].encode()} for segment in found]
    if any(int(run_lengths(segment["counts"]).sum()) != size[0] * size[1] for segment in found):
        yield "counts are not those of a mask of its size"
        return
    areas, boxes, union = coco_mask.area(codes), coco_mask.toBbox(codes), coco_mask.area(coco_mask.merge(codes))
    for segment, area, box in zip(found, areas, boxes, strict=True):
        if segment["area"] != area or segment["bbox"] != box.tolist():
            yield f"segment {segment['id']}: area or bbox are not its mask's"
    if task != "instance" and int(union) != int(np.sum(areas)):
        yield f"{task} segments overlap"


def _total_problems(run: RunDirectory, ids: list[Any], counts: dict[str, int], segments: int) -> Iterator[str]:
    rows = np.sort(np.concatenate(ids)) if ids else np.zeros(0, np.int64)
    listed = np.sort(run.read_manifest()["image_id"].to_numpy())
    doubled = np.unique(rows[1:][rows[1:] == rows[:-1]])
    if len(doubled):
        yield f"{len(doubled)} image ids have more than one row, e.g. {doubled[0]}"
    unlisted = np.setdiff1d(rows, listed)
    if len(unlisted):
        yield f"{len(unlisted)} rows are of images that were not listed, e.g. {unlisted[0]}"
    info = run.read_info()
    lost = len(np.setdiff1d(listed, rows))
    if lost != info["images"]["remaining"]:
        yield f"{lost} listed images have no row; run.json says {info['images']['remaining']} remain"
    said = {"ok": info["images"]["ok"], "error": info["images"]["error"]}
    if said != counts or info["segments"] != segments or info["images"]["listed"] != len(listed):
        yield f"run.json counts {said} and {info['segments']} segments; the files hold {counts} and {segments}"
    if run.is_finished() and lost:
        yield "_SUCCESS is there although images remain"


def verify_command(run_uri: str) -> int:
    """``m2f-batch verify RUN``: print what is wrong, or that nothing is; 0 or 1."""
    run = open_existing_run(run_uri)
    info = run.read_info()
    problems = verify(run, info["task"])
    for problem in problems:
        print(problem)
    counts = info["images"]
    total = f"{counts['listed']:,} listed = {counts['ok']:,} ok + {counts['error']:,} error"
    state = "finished" if run.is_finished() else "not finished"
    print(
        f"{run.uri}: {f'{len(problems)} problems' if problems else 'verified'}; {state}; "
        f"{total} + {counts['remaining']:,} remaining; {info['segments']:,} segments"
    )
    return 1 if problems else 0
