"""Prove from storage alone that a run lost nothing and doubled nothing, and that its masks are what they say."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from m2f_batch.records import SCHEMA, ImageRef, Row
from m2f_batch.storage.run import DamagedFile, RunDirectory, open_existing_run
from m2f_batch.vision.rle import run_lengths

SCORE_ROUNDING = 1e-5  # a mean of float32 ones may come out a little larger
# numbers of at most seven base-32 digits, each closed: what pycocotools' C code can be given without harm
COUNTS = re.compile(r"([P-o]{0,6}[0-O])+")


def verify(run: RunDirectory, task: str) -> list[str]:
    """Everything that is wrong with a run, one line each; an empty list is the proof.

    Each listed image has exactly one row and no other row is there; the schema is exact; every ``counts`` is the one
    encoding of a mask with its size, ``area`` and ``bbox``; ids count from 1; categories are the run's; panoptic and
    semantic segments are disjoint; the totals of a finished run are those of run.json (of one that goes on or was
    killed, run.json is some seconds behind).
    """
    info = run.read_info()
    names = {category["id"]: category["name"] for category in info["categories"]}
    problems = [f"{file}: is not of this run, and readers would take it for rows" for file in run.foreign_files()]
    ids: list[np.ndarray] = []
    found: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for file in run.annotation_files():
        try:
            table = run.read_annotations(file)
        except DamagedFile as error:
            problems.append(str(error))
            continue
        if not table.schema.equals(SCHEMA):
            problems.append(f"{file}: its schema is not the frozen one")
            continue
        ids.append(table["image_id"].to_numpy())
        for row in table.to_pylist():
            found[row["status"]] += 1
            found["segments"] += len(row["segments"] or [])
            if row["error"]:
                reasons[f"{row['error']['stage']}/{row['error']['type']}"] += 1
            problems.extend(f"{row['uri']}: {problem}" for problem in _row_problems(row, task, names))
    rows = np.sort(np.concatenate(ids)) if ids else np.zeros(0, np.int64)
    problems += _row_id_problems(run, rows, info)
    return problems + (list(_total_problems(found, reasons, info)) if info["finished_at"] else [])


def _row_problems(row: Row, task: str, names: dict[int, str]) -> Iterator[str]:
    if row["image_id"] != ImageRef(row["uri"], row["version"]).image_id:
        yield f"image_id {row['image_id']} is not that of its uri and version"
    if row["status"] not in ("ok", "error") or (row["status"] == "error") != (row["error"] is not None):
        yield f"status {row['status']!r} does not go with error {row['error']}"
    if row["status"] == "error" and row["segments"]:
        yield "an error row has segments"
    if row["segments"] is None or any(entry is None or None in entry.values() for entry in row["segments"]):
        yield "segments, or parts of them, are null"
    elif row["status"] == "ok" and not (row["height"] and row["width"]):
        yield "an image that was labelled has no size"
    else:
        yield from _segment_problems(row["segments"], (row["height"], row["width"]), task, names)


def _segment_problems(
    found: list[dict[str, Any]], size_hw: tuple[int, int], task: str, names: dict[int, str]
) -> Iterator[str]:
    if [segment["id"] for segment in found] != list(range(1, len(found) + 1)):
        yield "the ids of its segments do not count from 1"
    for segment in found:
        if names.get(segment["category_id"]) != segment["category"]:
            yield f"segment {segment['id']}: category {segment['category_id']} is not {segment['category']!r}"
        if not 0 <= segment["score"] <= 1 + SCORE_ROUNDING:
            yield f"segment {segment['id']}: score {segment['score']} is not between 0 and 1"
    if task == "semantic" and len({segment["category_id"] for segment in found}) < len(found):
        yield "semantic segments share a class"
    wrong = [segment["id"] for segment in found if not _is_mask(segment["counts"], size_hw)]
    if wrong:
        yield f"segment {wrong[0]}: counts are not those of a mask of its size"
    elif found:
        yield from _mask_problems(found, size_hw, task)


def _is_mask(counts: str, size_hw: tuple[int, int]) -> bool:
    """Whether ``counts`` is what pycocotools gives for some mask of that size."""
    if None in size_hw or not COUNTS.fullmatch(counts):
        return False
    runs = run_lengths(counts)
    if (runs[1:] <= 0).any() or runs[0] < 0 or int(runs.sum()) != size_hw[0] * size_hw[1]:
        return False
    return (
        coco_mask.frPyObjects({"size": list(size_hw), "counts": runs.tolist()}, *size_hw)["counts"] == counts.encode()
    )


def _mask_problems(found: list[dict[str, Any]], size_hw: tuple[int, int], task: str) -> Iterator[str]:
    codes = [{"size": list(size_hw), "counts": segment["counts"].encode()} for segment in found]
    areas, boxes, union = coco_mask.area(codes), coco_mask.toBbox(codes), coco_mask.area(coco_mask.merge(codes))
    for segment, area, box in zip(found, areas, boxes, strict=True):
        if segment["area"] != area or segment["bbox"] != box.tolist():
            yield f"segment {segment['id']}: area or bbox are not its mask's"
    if not all(areas):
        yield "a segment is empty"
    if task != "instance" and int(union) != int(np.sum(areas)):
        yield f"{task} segments overlap"


def _row_id_problems(run: RunDirectory, rows: np.ndarray, info: dict[str, Any]) -> Iterator[str]:
    """Rows against the listing; ``rows`` are the image ids of all rows, sorted."""
    manifest = run.read_manifest()
    listed = manifest["image_id"].to_numpy()
    doubled = np.unique(rows[1:][rows[1:] == rows[:-1]])
    if len(doubled):
        yield f"{len(doubled)} image ids have more than one row, e.g. {doubled[0]}"
    unlisted = np.setdiff1d(rows, listed)
    if len(unlisted):
        yield f"{len(unlisted)} rows are of images that were not listed, e.g. {unlisted[0]}"
    lost = np.flatnonzero(~np.isin(listed, rows))
    example = f", e.g. {manifest['uri'][int(lost[0])]}" if len(lost) else ""
    if info["finished_at"] and len(lost) != info["images"]["remaining"]:
        yield f"{len(lost)} listed images have no row{example}; run.json says {info['images']['remaining']} remain"
    if info["images"]["listed"] != len(listed):
        yield f"run.json says {info['images']['listed']} images were listed; the manifest holds {len(listed)}"
    if run.is_finished() and len(lost):
        yield f"_SUCCESS is there although {len(lost)} images remain{example}"


def _total_problems(found: Counter[str], reasons: Counter[str], info: dict[str, Any]) -> Iterator[str]:
    said = {"ok": info["images"]["ok"], "error": info["images"]["error"], "segments": info["segments"]}
    held = {name: found[name] for name in said}
    if said != held:
        yield f"run.json counts {said}; the files hold {held}"
    if info["errors"] != reasons:
        yield f"run.json counts the errors {info['errors']}; the files hold {dict(reasons)}"


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
