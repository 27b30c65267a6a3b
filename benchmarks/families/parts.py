"""Times one family in three ways: its forward pass, its post-processing, and its whole job."""

import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.families.cases import Case
from benchmarks.families.models import TEXT_LENGTH, processor_of
from benchmarks.families.peers import Peer, logits_of, post_process
from benchmarks.lib.agreement import overlaps
from benchmarks.lib.photos import photographs
from benchmarks.lib.timing import Rounds, ratio_of, take_turns
from benchmarks.lib.work import make_work
from m2f_batch.config.section import MAX_PIXELS
from m2f_batch.config.segment import ModelConfig, PostprocessConfig, PreprocessConfig, Task
from m2f_batch.models.checkpoint import read_checkpoint
from m2f_batch.models.oneformer.transformers_model import task_ids
from m2f_batch.models.predictions import PixelLogits, Prediction, Predictor, QueryLogits, SigmoidQueryLogits
from m2f_batch.vision.device.threads import pinned_threads
from m2f_batch.vision.label_settings import Labeling, settle
from m2f_batch.vision.masks.frame import Frame
from m2f_batch.vision.pixels.preprocess import Prepared, pixel_values, prepare_image
from m2f_batch.vision.postprocess import segments_of
from m2f_batch.vision.segmenter import Segmenter

ALIKE, ALIKE_DOUBLE = 1e-4, 1e-9  # of the largest logit, in float32 and in float64
KEPT, GRID = 20, 32
WARM_SECONDS = 8.0
Times = dict[str, Any]


def times(seconds: Mapping[str, Sequence[float]], ours: str, **others: str) -> Times:
    """The medians of ``ours`` and of others, and how many times as fast ours is: median, lowest and highest."""
    found: Times = {"ours": statistics.median(seconds[ours]), "rounds": len(seconds[ours])}
    for name, way in others.items():
        found[name] = statistics.median(seconds[way])
        found[f"{name} / ours"] = list(ratio_of(seconds[way], seconds[ours]))
    return found


def labeling_of(directory: Path, task: Task) -> Labeling:
    """What a run of the task would do."""
    checkpoint = read_checkpoint(directory, directory.name)
    return settle(checkpoint, ModelConfig(uri="m", task=task), PreprocessConfig(), PostprocessConfig())


def canvases(segmenter: Segmenter, count: int, device: torch.device) -> list[Tensor]:
    """Pixel values [1, 3, Hc, Wc] of photographs as a run makes them, of the first view, cut to multiples of 32.

    Of other edges transformers' MobileViTv2 computes something else.
    """
    plan, found = segmenter.labeling.preprocess, []
    for data in photographs(count):
        image = prepare_image(data, plan, MAX_PIXELS, segmenter.labeling.cut)
        assert isinstance(image, Prepared)
        values = pixel_values(image.contents[:1], image.views[0].canvas_hw, plan, device)
        height, width = (length // GRID * GRID for length in values.shape[-2:])
        found.append(values[..., :height, :width].contiguous())
    return found


def measure_forward(case: Case, peer: Peer, segmenter: Segmenter, rounds: Rounds, device: torch.device) -> Times:
    """The forward pass of one canvas. Raises AssertionError where the logits differ by more than rounding."""
    images = canvases(segmenter, min(3, rounds.most), device)
    others = {"task_inputs": task_ids(case.task, TEXT_LENGTH).to(device)} if case.row == "oneformer" else {}
    kept: dict[str, list[tuple[Tensor, ...]]] = {"ours": [], "eager": []}

    def of_one(name: str, number: int) -> None:
        values = images[number % len(images)]
        answer = our_logits(case, segmenter.model, values) if name == "ours" else peer.logits(values, others)
        if device.type == "cuda":
            torch.cuda.synchronize()
        kept[name].append(answer)

    counts = {name: iter(range(10**9)) for name in kept}
    ways = {name: (lambda name=name: of_one(name, next(counts[name]))) for name in kept}
    begun = time.perf_counter()
    for number in range(len(images)):  # each canvas once, which warms up, or as many as there is time for
        for name in ways:
            of_one(name, number)
        if time.perf_counter() - begun > WARM_SECONDS:
            break
    differences = [apart(ours, theirs) for ours, theirs in zip(kept["ours"], kept["eager"], strict=True)]
    if (difference := max(differences)) > ALIKE:
        _check_doubles(case, segmenter, peer, images[differences.index(difference)], others)
    kept = {name: [] for name in kept}
    seconds, _ = take_turns(ways, rounds)
    sizes = sorted({f"{each.shape[2]}x{each.shape[3]}" for each in images})
    found = times(seconds, "ours", transformers="eager")
    return {"canvas": ", ".join(sizes), "attention": peer.attention, "difference": difference, **found}


@torch.inference_mode()
def _check_doubles(case: Case, segmenter: Segmenter, peer: Peer, values: Tensor, others: Mapping[str, Tensor]) -> None:
    """Raise AssertionError where the logits differ in float64, too, and so by more than rounding."""
    model, theirs = (copy.deepcopy(each).double() for each in (segmenter.model, peer.model))
    doubles = {name: each.double() for name, each in others.items()}
    answers = logits_of(theirs(pixel_values=values.double(), **doubles))
    difference = apart(our_logits(case, model, values.double()), answers)
    assert difference <= ALIKE_DOUBLE, f"{case.name}: logits differ by {difference:.1e} in float64"


@torch.inference_mode()
def our_logits(case: Case, model: Predictor, values: Tensor) -> tuple[Tensor, ...]:
    """Our logits. UperNet's are enlarged to the canvas, as its model in transformers does: both do the same work."""
    logits = model(values).tensors
    if case.row != "upernet":
        return logits
    return tuple(interpolate(each, size=values.shape[-2:], mode="bilinear", align_corners=False) for each in logits)


def apart(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest difference by the largest logit. Raises AssertionError where shapes differ."""
    pairs = list(zip(ours, theirs, strict=True))
    assert all(a.shape == b.shape for a, b in pairs), "logits of another shape"
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in pairs)


def measure_post(case: Case, directory: Path, task: Task, output: tuple[int, int], rounds: Rounds) -> Times:
    """Post-processing and RLE on one thread, of logits as a trained model gives them."""
    labeling = labeling_of(directory, task)
    prediction, frame = made_prediction(case, labeling, task, output)
    outputs, processor = _as_outputs(prediction), processor_of(case, directory)
    settings = labeling.postprocess
    with pinned_threads(1):
        seconds, answers = take_turns(
            {
                "ours": torch.inference_mode()(partial(segments_of, prediction, task, frame, settings)),
                "theirs": lambda: post_process(processor, outputs, task, [output], settings)[0],
            },
            rounds,
        )
    ours = answers["ours"]
    assert ours, f"{case.name}: nothing was found"
    return {
        "task": task,
        "output": f"{output[0]}x{output[1]}",
        "segments": len(ours),
        "overlap": statistics.median(overlaps(answers["theirs"], ours)),
        **times(seconds, "ours", transformers="theirs"),
    }


def made_prediction(case: Case, labeling: Labeling, task: Task, output: tuple[int, int]) -> tuple[Prediction, Frame]:
    """Logits with the places and areas of annotated objects."""
    plan = labeling.preprocess
    work = make_work(task, output, KEPT, classes=case.classes, plan=plan)
    frame = Frame(work.canvas, work.content, output)
    if case.row == "rf_detr":
        return SigmoidQueryLogits(work.class_logits[:, :-1] - 6, work.mask_logits), frame
    if task != "semantic" or case.model.endswith("UniversalSegmentation") or case.row == "maskformer":
        return QueryLogits(work.class_logits, work.mask_logits), frame
    scores = torch.einsum("qc,qhw->chw", work.class_logits.softmax(-1)[:, :-1], work.mask_logits.sigmoid())
    logits = 12 * scores
    if case.row.startswith("mobilevit"):  # which give them at 1/16
        size = (work.canvas[0] // 16, work.canvas[1] // 16)
        logits = interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    return PixelLogits(logits), frame


def _as_outputs(prediction: Prediction) -> Any:
    """What transformers' post-processing takes: a batch of one."""
    match prediction:
        case QueryLogits(classes, masks):
            return SimpleNamespace(
                class_queries_logits=classes[None], masks_queries_logits=masks[None], patch_offsets=None
            )
        case SigmoidQueryLogits(classes, masks):
            return SimpleNamespace(logits=classes[None], pred_masks=masks[None])
        case PixelLogits(logits):
            return SimpleNamespace(logits=logits[None])


def measure_job(peer: Peer, segmenter: Segmenter, count: int, rounds: Rounds) -> Times:
    """From files in memory to RLE in this process. Raises AssertionError where rounds differ, on CPU."""
    photos, settings = photographs(count), segmenter.labeling.postprocess
    ways = {
        "ours": lambda: segmenter(photos),
        "one": lambda: [peer.label([photo], settings)[0] for photo in photos],
        "batch": lambda: peer.label(photos, settings),
    }
    before = ways["ours"]()
    seconds, answers = take_turns(ways, rounds)
    if segmenter.device.type == "cpu":
        assert answers["ours"] == before, "the same images have other rows"
    found = sum(map(len, answers["ours"]))
    per_image = {name: [each / count for each in taken] for name, taken in seconds.items()}
    return {
        "images": count,
        "segments": found / count,
        **times(per_image, "ours", **{"one by one": "one", "batched": "batch"}),
    }
