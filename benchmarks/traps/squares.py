"""The traps of families that see a square, and answer with queries: EoMT and RF-DETR."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn.functional import interpolate, pad
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.pipelines.image_segmentation import ImageSegmentationPipeline

from benchmarks.traps.queries import OVERLAPS, STUFF_IDS, against_instances, panoptic_of
from benchmarks.traps.scenes import (
    EDGE,
    SEED,
    STRIDE,
    Asked,
    asked,
    halves,
    is_same,
    overlapping,
    segments_of_scene,
    two_classes,
)
from benchmarks.traps.trap import Shown, Trap
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.models.eomt import rules
from m2f_batch.models.predictions import QueryLogits
from m2f_batch.vision.cuts.windows import starts_of
from m2f_batch.vision.masks.frame import Frame
from m2f_batch.vision.postprocess import instance_segments, panoptic_segments, sigmoid_instance_segments
from tests.support import reference


def eomt() -> Any:
    return transformers.EomtImageProcessor(size={"shortest_edge": 288, "longest_edge": 288}, do_pad=True)


def on_square(one: Asked) -> Asked:
    edge = 288
    height, width = one.frame.output
    scale = edge / max(height, width)
    content = round(height * scale), round(width * scale)
    size = content[0] // STRIDE, content[1] // STRIDE
    masks = interpolate(one.logits.mask_logits[None], size=size, mode="bilinear")[0]
    masks = pad(masks, (0, edge // STRIDE - size[1], 0, edge // STRIDE - size[0]), value=-EDGE)
    return Asked(one.scene, QueryLogits(one.logits.class_logits, masks), Frame((edge, edge), content, one.frame.output))


def eomt_overlaps() -> Shown:
    """The same boxes on EoMT's square."""
    one = on_square(overlapping())
    theirs = eomt().post_process_instance_segmentation(one.outputs, [one.frame.output], threshold=0.5)[0]
    return against_instances(one, theirs["segmentation"], theirs["segments_info"])


def eomt_one_class() -> Shown:
    """Both classes of such a query."""
    one = on_square(two_classes())
    theirs = eomt().post_process_instance_segmentation(one.outputs, [one.frame.output], threshold=0.3)[0]
    settings: Any = {"score_threshold": 0.3}
    ours, defined = instance_segments(**one.truth, **settings), reference.instance(**one.truth, **settings)
    found = len(theirs["segments_info"])
    return Shown(
        theirs=f"{found} instances, one for each query",
        ours=f"{len(ours)} instances, one for each (query, class)",
        definition=f"{len(defined)} instances",
        differs=f"{len(defined) - found} instance lost",
        is_there=found < len(defined),
        is_ours_defined=is_same(ours, defined),
    )


def eomt_stuff() -> Shown:
    """Sky in two queries, with the arguments that its documentation has."""
    sky, *others = segments_of_scene(draw_scene(SEED))
    one = on_square(asked(SEED, [*halves(sky), *others]))
    infos = panoptic_of(eomt(), one, stuff_classes=None)["segments_info"]
    ours = panoptic_segments(**one.truth, stuff_ids=STUFF_IDS)
    defined = reference.panoptic(**one.truth, stuff_ids=STUFF_IDS)
    skies = sum(info["label_id"] == sky[0] for info in infos)
    return Shown(
        theirs=f"{skies} skies",
        ours=f"{sum(each.category_id == sky[0] for each in ours)} sky, by the label set or the checkpoint",
        definition=f"{sum(each.category_id == sky[0] for each in defined)} sky",
        differs=f"{len(infos) - len(defined)} segment too many",
        is_there=skies > 1,
        is_ours_defined=is_same(ours, defined),
    )


def eomt_sizes() -> Shown:
    """1,000 sizes of images, on a square of 640 and in windows of it."""
    rng = np.random.default_rng(0)
    sizes = [(int(h), int(w)) for h, w in rng.integers(200, 2000, (1000, 2))]
    shares, is_defined = [], True
    for task, longest in (("panoptic", 640), ("semantic", None)):
        plan = rules.pixels({"image_size": 640}, {"image_processor_type": "EomtImageProcessor"}, task)  # type: ignore[arg-type]
        choose = max if task == "semantic" else min
        theirs = [get_size_with_aspect_ratio(size, 640, longest) for size in sizes]
        ours = [plan.content_size(size) for size in sizes]
        factors = [choose(640 / h, 640 / w) for h, w in sizes]
        is_defined &= ours == [(round(h * by), round(w * by)) for (h, w), by in zip(sizes, factors, strict=True)]
        shares.append(np.mean([a != b for a, b in zip(theirs, ours, strict=True)]))
    wide = get_size_with_aspect_ratio((49, 642), 640, 640)
    return Shown(
        theirs="cut to whole pixels; 49x642 stays {}x{}, wider than the model, which ends in an error".format(*wide),
        ours="rounded to the nearest",
        definition="round(side * factor)",
        differs=f"another size for {shares[0]:.0%} of 1,000 images in panoptic, {shares[1]:.0%} in semantic",
        is_there=min(shares) > 0,
        is_ours_defined=is_defined,
    )


def eomt_last_pixel() -> Shown:
    """The last windows along thin images."""
    edge, processor = 640, transformers.EomtImageProcessor()
    short: list[tuple[int, int]] = []
    for length in range(7 * edge, 12 * edge):
        empty = torch.empty(1, 0, edge, length)
        last = processor._split_image(empty, SimpleNamespace(shortest_edge=edge), [0])[1][-1][2]
        if last < length:
            short.append((length, starts_of(length, edge, None)[-1] + edge))
    return Shown(
        theirs=f"the last column is in no window for {len(short)} of {5 * edge} lengths: its label is class 0",
        ours="the last window ends at the border",
        definition="the original divides by 0 there: NaN",
        differs=f"that column, first at 640x{short[0][0]}" if short else "nothing",
        is_there=bool(short),
        is_ours_defined=all(length == covered for length, covered in short),
    )


def _found_by_rf_detr(one: Asked, **more: Any) -> dict[str, Any]:
    outputs = SimpleNamespace(
        logits=one.logits.class_logits[None, :, :-1] - 4, pred_masks=one.logits.mask_logits[None].clone()
    )
    found: dict[str, Any] = transformers.RfDetrImageProcessor().post_process_instance_segmentation(
        outputs, target_sizes=[one.frame.output], **more
    )[0]
    return found


def _rf_detr_truth(one: Asked) -> tuple[list[Any], list[reference.Region]]:
    logits = one.logits.class_logits[:, :-1] - 4
    return (
        sigmoid_instance_segments(logits, one.logits.mask_logits, **one.frame._asdict()),
        reference.sigmoid_instance(logits, one.logits.mask_logits, output=one.frame.output),
    )


def rf_detr_overlaps() -> Shown:
    """The id map of instances that overlap, as it comes without ``return_binary_maps``."""
    one = overlapping()
    theirs = _found_by_rf_detr(one)
    ours, defined = _rf_detr_truth(one)
    areas = sorted(int((theirs["segmentation"] == info["id"]).sum()) for info in theirs["segments_info"])
    lost = sum(each.area for each in ours) - sum(areas)
    return Shown(
        theirs=f"areas {', '.join(map(str, areas))}",
        ours=f"areas {', '.join(str(each) for each in sorted(each.area for each in ours))}",
        definition=f"areas {', '.join(str(each) for each in sorted(int(each.mask.sum()) for each in defined))}",
        differs=f"{lost:,} pixels of objects are lost",
        is_there=lost > 0,
        is_ours_defined=is_same(ours, defined),
    )


def rf_detr_pipeline() -> Shown:
    """The pipeline's mask_threshold of 0.5, which is a probability elsewhere, and a mask that is not very sure."""
    one = overlapping()
    one.logits.mask_logits[1] *= 0.1
    outputs = {"logits": one.logits.class_logits[None, :, :-1] - 4, "pred_masks": one.logits.mask_logits[None]}
    model = SimpleNamespace(config=SimpleNamespace(id2label={i: str(i) for i in range(9)}))
    pipe = SimpleNamespace(image_processor=transformers.RfDetrImageProcessor(), model=model)
    given = _Outputs(outputs | {"target_size": [one.frame.output]})
    found = ImageSegmentationPipeline.postprocess(pipe, given, subtask="instance", threshold=0.5)
    union = np.any([np.asarray(each["mask"]) > 0 for each in found], axis=0)
    ours, defined = _rf_detr_truth(one)
    mine = np.any([each.mask() for each in ours], axis=0)
    lost = int((mine & ~union).sum())
    return Shown(
        theirs=f"{int(union.sum()):,} pixels in any object",
        ours=f"{int(mine.sum()):,} pixels",
        definition=f"{int(np.any([each.mask for each in defined], axis=0).sum()):,} pixels: logit > 0",
        differs=f"{lost:,} pixels with a logit of 0 to 0.5 are lost",
        is_there=lost > 0,
        is_ours_defined=is_same(ours, defined),
    )


class _Outputs(dict[str, Any]):
    """An output of a model, as the pipeline takes it."""

    __getattr__ = dict.__getitem__


def rf_detr_empty() -> Shown:
    """A query that is sure of its class and has no pixel."""
    one = overlapping()
    one.logits.mask_logits[1] = -EDGE
    theirs = _found_by_rf_detr(one, return_binary_maps=True)["segments_info"]
    ours, defined = _rf_detr_truth(one)
    return Shown(
        theirs=f"{len(theirs)} segment",
        ours=f"{len(ours)} segments, one with area 0",
        definition=f"{len(defined)} segments: it counts as a false alarm in AP",
        differs=f"{len(defined) - len(theirs)} segment",
        is_there=len(theirs) < len(defined),
        is_ours_defined=is_same(ours, defined),
    )


def traps() -> tuple[Trap, ...]:
    """All of them, in the order of families."""
    return (
        Trap("eomt, eomt_dinov3", "all", "sizes are rounded otherwise", eomt_sizes),
        Trap("eomt, eomt_dinov3", "instance", OVERLAPS, eomt_overlaps),
        Trap("eomt, eomt_dinov3", "instance", "each query has its best class only", eomt_one_class),
        Trap("eomt, eomt_dinov3", "panoptic", "stuff is not merged unless stuff_classes is given", eomt_stuff),
        Trap("eomt, eomt_dinov3", "semantic", "rounding can leave the last pixel in no window", eomt_last_pixel),
        Trap("rf_detr", "instance", OVERLAPS, rf_detr_overlaps),
        Trap("rf_detr", "instance", "the pipeline takes a probability of 0.5 for a logit", rf_detr_pipeline),
        Trap("rf_detr", "instance", "empty masks are dropped", rf_detr_empty),
    )
