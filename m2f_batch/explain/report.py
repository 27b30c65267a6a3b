"""Everything that was found out about one image, as the tree of explain.json and as pictures."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from m2f_batch.explain import pictures
from m2f_batch.explain.class_scores import JudgedClass, define_classes
from m2f_batch.explain.comparison import compare, flips, pairs, rles
from m2f_batch.explain.definition import Definition, Judged, define
from m2f_batch.explain.recorded import Setup, changed_versions
from m2f_batch.explain.rerun import Findings
from m2f_batch.records import Row, Segment, segment_of

SHOWN_DROPPED = 12  # dropped candidates in the sheet, those with the best class scores


class Report(NamedTuple):
    """The tree of explain.json, the comparison of rows, and the definition for an image that came to logits.

    ``classes`` are judged in place of queries, where these have no mask each, or one in each window.
    """

    tree: dict[str, Any]
    comparison: dict[str, Any]
    definition: Definition | None
    classes: list[JudgedClass]


def report_of(found: Findings, setup: Setup, stored: Row | None) -> Report:
    """Every number, with the stored row beside it."""
    comparison = compare(stored, found.row()) if found.error or found.segments is not None else _unfinished(found)
    definition: Definition | None = None
    classes: list[JudgedClass] = []
    if found.class_logits is not None and found.mask_logits is not None and found.segments is not None:
        with found.timing("definition"):
            definition = define(
                found.class_logits, found.mask_logits, setup.labeling.task, found.frame, setup.labeling.postprocess
            )
    elif found.predictions and found.segments is not None:
        assert found.prepared is not None
        with found.timing("definition"):
            upsampling = setup.labeling.postprocess.get("upsampling", "bilinear")
            classes, definition = define_classes(found.predictions, found.prepared.views, found.frame, upsampling)
    tree = {
        "uri": found.ref.uri,
        "image_id": found.ref.image_id,
        "version": {
            "listed": found.ref.version,
            "now": found.version,
            "changed": None if found.version is None else found.version != found.ref.version,
        },
        "run": _run_tree(setup),
        "header": found.header,
        "decoded": None if found.rgb is None else _pixels_tree(found.rgb),
        "preprocessed": _preprocessed_tree(found, setup),
        "logits": _logits_tree(found),
        "queries": None if definition is None or classes else [_judged_tree(item, setup) for item in definition.judged],
        **({"classes": [_class_tree(item, setup) for item in classes]} if classes else {}),
        "segments": None if found.segments is None else [segment.entry() for segment in found.segments],
        "definition": None if definition is None else _agreement(found, definition),
        "error": _error_tree(found),
        "comparison": comparison,
        "stored_row": stored,
        "forward": None if found.checked is None else asdict(found.checked),
        "seconds": found.seconds,
    }
    return Report(tree, comparison, definition, classes)


def files_of(found: Findings, setup: Setup, stored: Row | None, report: Report) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every picture that could be had, then of explain.json."""
    with found.timing("pictures"):
        yield from ((name, _png(picture)) for name, picture in _pictures(found, setup, stored, report))
    yield "explain.json", (json.dumps(report.tree, indent=2) + "\n").encode()


def _pictures(
    found: Findings, setup: Setup, stored: Row | None, report: Report
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    if found.rgb is not None:
        yield "decoded.png", found.rgb
    if found.values is not None:
        yield "canvas.png", pictures.seen_by_model(found.values, setup.labeling.preprocess)
    if found.rgb is None or report.definition is None or found.segments is None:
        return
    if found.mask_logits is not None:
        yield "queries.png", pictures.heatmaps(found.mask_logits, found.frame, _cells(report.definition, setup))
    stuff_ids = frozenset(category.id for category in setup.labeling.categories if not category.isthing)
    yield "overlay.png", pictures.overlay(found.rgb, found.segments, stuff_ids)
    if report.comparison["segments"] is not None and stored is not None:
        yield "difference.png", pictures.difference(found.rgb, list(_paired(stored, found.segments)))


def _paired(stored: Row, now: list[Segment]) -> Iterator[tuple[Segment | None, Segment | None]]:
    size_hw = (stored["height"], stored["width"])
    before = [segment_of(entry, size_hw) for entry in stored["segments"]]
    together = pairs(rles(stored["segments"], size_hw), rles([segment.entry() for segment in now], size_hw))
    yield from ((before[i], now[j]) for i, j, _ in together)
    yield from ((before[i], None) for i in range(len(before)) if i not in {pair[0] for pair in together})
    yield from ((None, now[j]) for j in range(len(now)) if j not in {pair[1] for pair in together})


def _cells(definition: Definition, setup: Setup) -> list[pictures.Cell]:
    kept = sorted((item for item in definition.judged if item.segments), key=lambda item: (item.segments, item.query))
    nearest = sorted((item for item in definition.judged if not item.segments), key=lambda item: -item.class_score)
    return [
        pictures.Cell(
            item.query,
            item.class_score,
            bool(item.segments),
            (
                f"q{item.query} {category_name(item, setup)} {item.class_score:.3f}",
                f"segment {item.segments[0]}" if item.segments else item.detail,
            ),
        )
        for item in [*kept, *nearest[:SHOWN_DROPPED]]
    ]


def category_name(item: Judged, setup: Setup) -> str:
    """The name of a candidate's class."""
    return setup.labeling.categories[item.category_id].name


def _png(picture: NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "PNG", compress_level=3)
    return sink.getvalue()


def _unfinished(found: Findings) -> dict[str, Any]:
    return {"same": False, "differs": [f"no row could be made of {found.ref.uri}"], "segments": None}


def _run_tree(setup: Setup) -> dict[str, Any]:
    return {
        "run_id": setup.info.run_id,
        "task": setup.labeling.task,
        "model": {"uri": setup.source.uri, "revision": setup.source.revision},
        "precision": setup.labeling.precision,
        "compile": setup.labeling.compile,
        "preprocess": setup.info.preprocess,
        "postprocess": setup.info.postprocess,
        "device": {"in_run": setup.recorded_device, "here": setup.device, "threads_on_cpu": setup.threads},
        "fingerprint": {"in_run": setup.info.fingerprint, "same": not setup.problems, "differs": setup.problems},
        "versions_changed": changed_versions(setup),
    }


def _pixels_tree(rgb: NDArray[np.uint8]) -> dict[str, Any]:
    counts = np.reshape(
        Image.fromarray(rgb).histogram(), (3, 256)
    )  # of each level, because floats of all pixels may not fit in memory
    return {
        "size_hw": list(rgb.shape[:2]),
        "sha256": hashlib.sha256(rgb.data).hexdigest(),
        "channels": {name: _levels_tree(counts[channel]) for channel, name in enumerate("RGB")},
    }


def _levels_tree(counts: NDArray[np.int64]) -> dict[str, float]:
    """Describe pixels by the counts of each level, 0 to 255."""
    levels, present = np.arange(256), np.flatnonzero(counts)
    mean = float(np.average(levels, weights=counts))
    std = float(np.average((levels - mean) ** 2, weights=counts)) ** 0.5
    return {"min": int(present[0]), "max": int(present[-1]), "mean": mean, "std": std}


def _preprocessed_tree(found: Findings, setup: Setup) -> dict[str, Any] | None:
    if found.prepared is None or found.values is None:
        return None
    prepared, (height, width) = found.prepared, found.view.content_hw
    content = found.values[:, :height, :width]
    windows = [list(view.window) for view in prepared.views]
    return {
        **({"windows_yxhw": windows, "resized_hw": list(found.frame.content)} if len(windows) > 1 else {}),
        "size": setup.labeling.preprocess.describe(),
        "canvas_hw": list(found.view.canvas_hw),
        "content_hw": [height, width],
        "scale_hw": [height / prepared.output_hw[0], width / prepared.output_hw[1]],
        "pixel_values": {name: _spread(plane) for name, plane in zip("RGB", content, strict=True)},
    }


def _logits_tree(found: Findings) -> dict[str, Any] | None:
    """Describe the logits of the first view, and of the others too, where there are some."""
    if not found.predictions:
        return None
    first, *others = (
        {
            name: {"shape": list(logits.shape), **_spread(logits), "not_finite": int((~logits.isfinite()).sum())}
            for name, logits in zip(("class", "mask"), prediction.tensors, strict=False)
        }
        for prediction in found.predictions
    )
    return {**first, "of_other_windows": others} if others else first


def _spread(values: Tensor) -> dict[str, float | None]:
    """Describe the finite values. None if there are none, because JSON has no NaN."""
    finite = values[values.isfinite()].double()
    if not len(finite):
        return dict.fromkeys(("min", "max", "mean", "std"))
    low, high = finite.aminmax()
    return {
        "min": float(low),
        "max": float(high),
        "mean": float(finite.mean()),
        "std": float(finite.std(correction=0)),
    }


def _judged_tree(item: Judged, setup: Setup) -> dict[str, Any]:
    return {**asdict(item), "category": category_name(item, setup), "kept": bool(item.segments)}


def _class_tree(item: JudgedClass, setup: Setup) -> dict[str, Any]:
    return {**asdict(item), "category": setup.labeling.categories[item.category_id].name}


def _agreement(found: Findings, definition: Definition) -> dict[str, Any]:
    """The segments against the plain dense definition: which must agree, except where a value is on its threshold."""
    assert found.segments is not None
    ours, theirs = found.segments, definition.segments
    same = [segment.category_id for segment in ours] == [defined.category_id for defined in theirs]
    size = list(found.frame.output)
    return {
        "same_segments": same,
        "reasons": dict(Counter(item.reason for item in definition.judged).most_common()),
        "flipped_pixels": [
            flips(
                {"size": size, "counts": segment.counts.encode()},
                {"size": size, "counts": defined.code.counts.encode()},
            )
            for segment, defined in zip(ours, theirs, strict=same)
        ],
        "score_differences": [segment.score - defined.score for segment, defined in zip(ours, theirs, strict=same)],
    }


def _error_tree(found: Findings) -> dict[str, Any] | None:
    if found.cause is None:
        return None
    cause = "".join(found.cause)
    if found.error is None:  # a bug, in the stage that was begun last
        return {"stage": list(found.seconds)[-1], "type": None, "message": found.cause[-1].strip(), "cause": cause}
    return {"stage": found.error.stage, "type": found.error.reason, "message": found.error.message, "cause": cause}
