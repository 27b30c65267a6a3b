"""Model and run directories made by hand: no torch, no Ray, every number known."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import save_file

from m2f_batch.errors import ImageError
from m2f_batch.records import ImageRef, Row, Segment, error_row, ok_row, table_of
from m2f_batch.runs.directory import RunDirectory, open_directory
from m2f_batch.vision.masks.rle import encode_mask

PROCESSOR = {"image_processor_type": "Mask2FormerImageProcessor", "size": {"height": 384, "width": 384}}


def make_model(directory: Path, labels: Sequence[str] = ("cat", "dog", "sky"), **config: Any) -> Path:
    """A directory that looks like a Mask2Former: config.json, a processor, and weights of the class head alone."""
    directory.mkdir(parents=True, exist_ok=True)
    tree = {"model_type": "mask2former", "id2label": {str(i): name for i, name in enumerate(labels)}, **config}
    (directory / "config.json").write_text(json.dumps(tree))
    (directory / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    save_file(weights(len(labels)), directory / "model.safetensors")
    return directory


def weights(labels: int) -> dict[str, NDArray[np.float32]]:
    """The class head of so many labels, and another tensor."""
    head = np.arange((labels + 1) * 4, dtype=np.float32).reshape(labels + 1, 4)
    return {"class_predictor.weight": head, "other": np.zeros(3, np.float32)}


@dataclass
class Picture:
    """One listed image: its segments as (category id, score, mask), why it failed, or None for no row yet."""

    uri: str
    size: tuple[int, int] = (12, 16)
    segments: list[tuple[int, float, NDArray[np.bool_]]] = field(default_factory=list)
    error: ImageError | None = None
    remains: bool = False

    @property
    def ref(self) -> ImageRef:
        """Its identity."""
        return ImageRef(self.uri, "7-1")

    def row(self, names: Sequence[str]) -> Row:
        """Its row."""
        if self.error is not None:
            return error_row(self.ref, self.error)
        codes = [encode_mask(mask) for _, _, mask in self.segments]
        return ok_row(
            self.ref,
            self.size,
            [
                Segment(i, label, names[label], score, code.area, code.bbox, code.counts, self.size)
                for i, ((label, score, _), code) in enumerate(zip(self.segments, codes, strict=True), 1)
            ],
        )


def box_mask(size: tuple[int, int], top: int, left: int, height: int, width: int) -> NDArray[np.bool_]:
    """A mask of one rectangle."""
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def make_run(
    folder: Path,
    units: Sequence[Sequence[Picture]],
    *,
    labels: Sequence[str] = ("cat", "dog", "sky"),
    dataset_ids: Sequence[int] = (17, 18, 200),
    stuff_ids: frozenset[int] = frozenset({2}),
    task: str = "panoptic",
    input_uri: str = "/photos",
    root: str | None = None,
    coco_ids: dict[str, int] | None = None,
) -> RunDirectory:
    """A run with one file per unit; the units come by uri, and their files' names sort the other way round."""
    run = open_directory(str(folder))
    pictures = [picture for unit in units for picture in unit]
    manifest = {
        "image_id": pa.array([picture.ref.image_id for picture in pictures], pa.int64()),
        "uri": [picture.uri for picture in pictures],
        "version": [picture.ref.version for picture in pictures],
    }
    if coco_ids is not None:
        manifest["coco_id"] = pa.array([coco_ids[picture.uri] for picture in pictures], pa.int64())
    run.write_manifest(pa.table(manifest))
    rows: list[Row] = []
    for number, unit in enumerate(units):
        mine = [picture.row(labels) for picture in unit if not picture.remains]
        if mine:
            run.commit(f"{len(units) - number:032x}", table_of(mine))
        rows += mine
    failed = [row["error"] for row in rows if row["error"]]
    reasons = [f"{error['stage']}/{error['type']}" for error in failed]
    run.write_info(
        {
            "run_id": "0123",
            "task": task,
            "model": {"uri": "/models/m", "revision": None, "fingerprint": "f", "license": "mit"},
            "config": {"input": {"uri": input_uri, "root": root}},
            "fingerprint": "f",
            "categories": [
                {"id": i, "name": name, "isthing": i not in stuff_ids, "dataset_id": dataset_ids[i]}
                for i, name in enumerate(labels)
            ],
            "stuff_ids_from": "checkpoint",
            "images": {
                "listed": len(pictures),
                "ok": len(rows) - len(failed),
                "error": len(failed),
                "remaining": len(pictures) - len(rows),
                "skipped": 3,
                "duplicates": 2,
            },
            "segments": sum(len(row["segments"]) for row in rows),
            "errors": {reason: reasons.count(reason) for reason in reasons},
            "started_at": "2026-11-20T10:00:00+00:00",
            "finished_at": "2026-11-20T10:00:09+00:00",
            "seconds": 9.0,
            "images_per_second": 0.5,
            "attempts": 1,
        }
    )
    if len(rows) == len(pictures):
        run.mark_success()
    return run
