"""The traps of Mask2Former, MaskFormer and OneFormer."""

import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers.models.oneformer import image_processing_oneformer

from benchmarks.families.cases import ALL
from benchmarks.traps.scenes import (
    SEED,
    STUFF,
    Asked,
    asked,
    halves,
    id_map,
    is_same,
    overlapping,
    segments_of_scene,
    two_classes,
)
from benchmarks.traps.trap import Shown, Trap
from m2f_batch.demo.scenes import RING, draw_scene
from m2f_batch.errors import UsageError
from m2f_batch.models.checkpoint import Checkpoint, choose_task
from m2f_batch.models.families.maskformer import FAMILY as MASKFORMER
from m2f_batch.vision.postprocess import instance_segments, panoptic_segments
from m2f_batch.vision.segmenter import Segmenter
from tests.support import reference

STUFF_IDS = frozenset(STUFF)
OVERLAPS = "one id for each pixel: what lies behind another object is lost"


def panoptic_of(processor: Any, one: Asked, **more: Any) -> dict[str, Any]:
    fused = {"stuff_classes": sorted(STUFF)} if "Eomt" in type(processor).__name__ else {"label_ids_to_fuse": STUFF}
    found: dict[str, Any] = processor.post_process_panoptic_segmentation(
        one.outputs, threshold=0.8, target_sizes=[one.frame.output], **(fused | more)
    )[0]
    return found


def _ids(infos: list[dict[str, Any]]) -> int:
    return len({info["id"] for info in infos})


def collide(processor: Any, *, keep_unsure: bool = False) -> Shown:
    """Sky in two queries: after the second, the next object takes the id of an object before it."""
    sky, grass, first, *others = segments_of_scene(draw_scene(SEED))
    left, right = halves(sky)
    one = asked(SEED, [left, grass, first, right, *others])
    theirs = panoptic_of(processor, one)
    ours = panoptic_segments(**one.truth, stuff_ids=STUFF_IDS, keep_unsure=keep_unsure)
    defined = reference.panoptic(**one.truth, stuff_ids=STUFF_IDS, keep_unsure=keep_unsure)
    segments, ids = len(theirs["segments_info"]) - 1, _ids(theirs["segments_info"])
    return Shown(
        theirs=f"{segments} segments share {ids} ids",
        ours=f"{len(ours)} segments, {len({each.id for each in ours})} ids",
        definition=f"{len(defined)} segments",
        differs=f"{len(defined) - ids} objects cannot be told from another",
        is_there=ids < segments,
        is_ours_defined=is_same(ours, defined),
        maps={
            "image": one.scene.image,
            "transformers": theirs["segmentation"].numpy() - 1,
            "m2f_batch": id_map(ours, one.frame.output) - 1,
        },
    )


def padding(processor: Any, *, keep_unsure: bool = False) -> Shown:
    """A wide image in a batch with a tall one, which pads it to a square."""
    one = asked(SEED, canvas=(288, 288))
    theirs = panoptic_of(processor, one)
    ours = panoptic_segments(**one.truth, stuff_ids=STUFF_IDS, keep_unsure=keep_unsure)
    defined = reference.panoptic(**one.truth, stuff_ids=STUFF_IDS, keep_unsure=keep_unsure)
    labels = _labels_of(theirs["segmentation"], theirs["segments_info"])
    mine = _labels_of(torch.from_numpy(id_map(ours, one.frame.output)), [_info(each) for each in ours])
    wrong = float((labels != mine).float().mean())
    height, width = one.frame.output
    return Shown(
        theirs=f"the {one.frame.canvas[0]}x{one.frame.canvas[1]} canvas squeezed into {height}x{width}",
        ours="the canvas cropped to its content",
        definition="cropped",
        differs=f"{wrong:.0%} of the pixels have another label",
        is_there=wrong > 0.01,
        is_ours_defined=is_same(ours, defined),
        maps={"image": one.scene.image, "transformers": labels.numpy(), "m2f_batch": mine.numpy()},
    )


def _info(segment: Any) -> dict[str, Any]:
    return {"id": segment.id, "label_id": segment.category_id}


def _labels_of(ids: Tensor, infos: list[dict[str, Any]]) -> Tensor:
    labels = torch.full(ids.shape, -1)
    for info in infos:
        labels[ids == info["id"]] = info["label_id"]
    return labels


def unsure(processor: Any) -> Shown:
    """A ring of pixels that one query owns with a probability of 0.4."""
    grass = segments_of_scene(draw_scene(SEED))[1]
    one = asked(SEED, [grass])
    one.logits.mask_logits.clamp_(min=float(torch.logit(torch.tensor(0.4))))
    theirs, ours = panoptic_of(processor, one), panoptic_segments(**one.truth)
    defined = reference.panoptic(**one.truth, overlap_threshold=0.8)
    kept = int((theirs["segmentation"] > 0).sum())
    return Shown(
        theirs=f"{kept:,} pixels",
        ours=f"{ours[0].area:,} pixels",
        definition=f"{int(defined[0].mask.sum()):,} pixels, those with p >= 0.5",
        differs=f"{kept - ours[0].area:,} pixels with p = 0.4 are labeled",
        is_there=kept > ours[0].area,
        is_ours_defined=is_same(ours, defined),
    )


def maskformer_instance() -> Shown:
    """Instance results of a MaskFormer."""
    one = asked(SEED)
    theirs = transformers.MaskFormerImageProcessor().post_process_instance_segmentation(
        one.outputs, target_sizes=[one.frame.output]
    )[0]
    told = ""
    try:
        choose_task(Checkpoint("m", Path(), {"model_type": "maskformer", "id2label": {"0": "a"}}, {}), "instance")
    except UsageError as error:
        told = error.problem.partition(",")[0]
    return Shown(
        theirs=f"{len(theirs['segments_info'])} instances, by the rule of Mask2Former",
        ours=f"refused: {told}",
        definition="paper and code have no instance inference",
        differs="all of them",
        is_there=bool(theirs["segments_info"]),
        is_ours_defined=bool(told),
    )


def size_divisibility() -> Shown:
    """The processor of an older MaskFormer of COCO."""
    old = {
        "size": 800,
        "max_size": 1333,
        "size_divisibility": 0,
        "feature_extractor_type": "MaskFormerFeatureExtractor",
    }
    processor = transformers.MaskFormerImageProcessor.from_dict(dict(old))
    theirs = tuple(processor(np.zeros((480, 640, 3), np.uint8), return_tensors="pt")["pixel_values"].shape[2:])
    ours = MASKFORMER.pixels.own({"id2label": {"0": "a"}}, old, "panoptic").canvas_size((480, 640))
    return Shown(
        theirs="480x640 becomes {}x{}".format(*theirs),
        ours="{}x{}".format(*ours),
        definition="800x1066: nothing is added",
        differs=f"{theirs[1] - ours[1]} columns of zeros",
        is_there=theirs != (800, 1066),
        is_ours_defined=ours == (800, 1066),
    )


def mask2former_one_class(processor: Any) -> Shown:
    """Both classes of such a query."""
    one = two_classes()
    theirs = processor.post_process_instance_segmentation(
        one.outputs, threshold=0.3, target_sizes=[one.frame.output], return_binary_maps=True
    )[0]
    ours = instance_segments(**one.truth, score_threshold=0.3)
    defined = reference.instance(**one.truth, score_threshold=0.3)
    found = len(theirs["segments_info"])
    return Shown(
        theirs=f"{found} instances",
        ours=f"{len(ours)} instances, one for each (query, class)",
        definition=f"{len(defined)} instances",
        differs=f"{len(defined) - found} instances",
        is_there=found < len(defined),
        is_ours_defined=is_same(ours, defined),
    )


def oneformer_processor(folder: Path) -> Any:
    """A OneFormer's image processor that asks nobody."""
    (folder / "classes.json").write_text('{"0": {"name": "ball", "isthing": 1}}')
    return transformers.OneFormerImageProcessor(repo_path=str(folder), class_info_file="classes.json")


def oneformer_lost(processor: Any) -> Shown:
    """Things, of which one is seen less surely, and a small one before a large one."""
    things = segments_of_scene(draw_scene(SEED))[2:]
    label, large = max((thing for thing in things if thing[0] != RING), key=lambda thing: int(thing[1].sum()))
    rows, columns = large.nonzero(as_tuple=True)
    y, x = int(rows.float().mean()), int(columns.float().mean())
    small = torch.zeros_like(large)
    small[y - 12 : y + 12, x - 12 : x + 12] = True
    one = asked(SEED, [*things, ((label + 1) % 4, small)])
    one.logits.mask_logits[0] *= 0.4
    one.logits.mask_logits[-1] *= 0.6
    theirs = processor.post_process_instance_segmentation(one.outputs, target_sizes=[one.frame.output])[0]
    ours, defined = instance_segments(**one.truth, top_k=150), reference.instance(**one.truth, top_k=150)
    found = len(theirs["segments_info"])
    labeled = int((theirs["segmentation"] > 0).sum())
    union = int(np.any([each.mask() for each in ours], axis=0).sum())
    return Shown(
        theirs=f"{found} objects over {labeled:,} pixels",
        ours=f"{len(ours)} objects over {union:,} pixels",
        definition=f"{len(defined)} objects over {int(np.any([each.mask for each in defined], axis=0).sum()):,} pixels",
        differs=f"{len(defined) - found} whole object lost, {labeled - union:,} pixels of background labeled",
        is_there=found < len(defined) and labeled > union,
        is_ours_defined=is_same(ours, defined),
        maps={
            "image": one.scene.image,
            "transformers": theirs["segmentation"].numpy() - 1,
            "m2f_batch": id_map(ours, one.frame.output) - 1,
        },
    )


def oneformer_stuff(processor: Any) -> Shown:
    """A scene whose stuff is found, too."""
    one = asked(SEED)
    infos = processor.post_process_instance_segmentation(one.outputs, target_sizes=[one.frame.output])[0]
    theirs = sum(info["label_id"] in STUFF for info in infos["segments_info"])
    ours = instance_segments(**one.truth, stuff_ids=STUFF_IDS, top_k=150)
    defined = reference.instance(**one.truth, stuff_ids=STUFF_IDS, top_k=150)
    return Shown(
        theirs=f"{theirs} instances of stuff",
        ours="none",
        definition="classes of stuff are dropped",
        differs=f"{theirs} segments that are no objects",
        is_there=theirs > 0,
        is_ours_defined=is_same(ours, defined),
    )


def oneformer_asks(folder: Path) -> Shown:
    """The processor as published ones are, in a directory of a tiny model, which ours loads."""
    asked_for: list[str] = []
    case = next(case for case in ALL if case.row == "oneformer")
    config = case.tiny()
    transformers.OneFormerForUniversalSegmentation(config).save_pretrained(folder)
    published = {"image_processor_type": "OneFormerImageProcessor", "class_info_file": "ade20k_panoptic.json"}
    (folder / "preprocessor_config.json").write_text(json.dumps({**published, "size": {"height": 64, "width": 64}}))

    def ask(*names: str, **_: Any) -> str:
        asked_for.append("/".join(names))
        raise ConnectionError("offline")

    hub = SimpleNamespace(hf_hub_download=ask)
    with patch.object(image_processing_oneformer, "hf_api", lambda: hub):
        with suppress(ConnectionError):
            transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        theirs = list(asked_for)
        segments = Segmenter.from_pretrained(str(folder), task="panoptic", device="cpu")([draw_scene(SEED).image])
    requests = len(asked_for) - len(theirs)
    return Shown(
        theirs=f"a request for {', '.join(theirs)}, and an error without a network",
        ours=f"{requests or 'no'} request, and {len(segments)} image is labeled",
        definition="the original has its classes with it",
        differs="it cannot be loaded offline",
        is_there=bool(theirs),
        is_ours_defined=requests == 0 and len(segments) == 1,
    )


def against_instances(one: Asked, ids: Tensor, infos: list[dict[str, Any]]) -> Shown:
    ours, defined = instance_segments(**one.truth), reference.instance(**one.truth)
    theirs = [int((ids == info["id"]).sum()) for info in infos]
    lost = sum(each.area for each in ours) - sum(theirs)
    return Shown(
        theirs=f"areas {', '.join(map(str, sorted(theirs)))}",
        ours=f"areas {', '.join(str(each) for each in sorted(each.area for each in ours))}",
        definition=f"areas {', '.join(str(each) for each in sorted(int(each.mask.sum()) for each in defined))}",
        differs=f"{lost:,} pixels of objects are lost",
        is_there=lost > 0,
        is_ours_defined=is_same(ours, defined),
    )


def overlaps(processor: Any) -> Shown:
    """The id map of instances that overlap."""
    one = overlapping()
    theirs = processor.post_process_instance_segmentation(one.outputs, threshold=0.5, target_sizes=[one.frame.output])[
        0
    ]
    return against_instances(one, theirs["segmentation"], theirs["segments_info"])


def traps(folder: Path) -> tuple[Trap, ...]:
    """All of them, in the order of families. ``folder`` is for files that processors read."""
    m2f, maskformer = transformers.Mask2FormerImageProcessor(), transformers.MaskFormerImageProcessor()
    oneformer = oneformer_processor(folder)
    asks = folder / "oneformer"
    asks.mkdir(exist_ok=True)
    collides = "after a second part of one stuff class, ids are given again"
    padded = "the padding of a canvas is not cropped"
    unsure_says = "pixels stay that a query owns with a probability under 0.5"
    return (
        Trap("mask2former", "panoptic", collides, lambda: collide(m2f)),
        Trap("mask2former", "panoptic", padded, lambda: padding(m2f)),
        Trap("mask2former", "panoptic", unsure_says, lambda: unsure(m2f)),
        Trap("mask2former", "instance", OVERLAPS, lambda: overlaps(m2f)),
        Trap(
            *("mask2former", "instance", "each query has its best class only"),
            lambda: mask2former_one_class(m2f),
            is_mended=True,
        ),
        Trap("maskformer", "instance", "instance results are Mask2Former's, copied", maskformer_instance),
        Trap("maskformer", "panoptic", collides, lambda: collide(maskformer, keep_unsure=True)),
        Trap("maskformer", "panoptic", padded, lambda: padding(maskformer, keep_unsure=True)),
        Trap("maskformer", "all", "a legacy size_divisibility of 0 is not mapped", size_divisibility),
        Trap(
            "oneformer", "instance", "masks compete by raw logits, without sigmoid", lambda: oneformer_lost(oneformer)
        ),
        Trap("oneformer", "instance", "stuff is not dropped", lambda: oneformer_stuff(oneformer)),
        Trap("oneformer", "panoptic", collides, lambda: collide(oneformer)),
        Trap("oneformer", "panoptic", padded, lambda: padding(oneformer)),
        Trap("oneformer", "panoptic", unsure_says, lambda: unsure(oneformer)),
        Trap(
            "oneformer",
            "all",
            "the image processor fetches a data set of the hub when it is built",
            lambda: oneformer_asks(asks),
        ),
    )
