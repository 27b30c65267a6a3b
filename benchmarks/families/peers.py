"""What ``transformers`` does from an image to COCO RLE, family by family, as its documentation has it."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from benchmarks.families.cases import Case
from benchmarks.families.models import inputs_of, processor_of
from benchmarks.lib.peers import encode
from m2f_batch.config.segment import Task
from m2f_batch.models.preprocess_plan import SizeHW
from m2f_batch.records import Segment

Found = list[tuple[float, int, dict[str, Any]]]  # score, label, RLE


class Peer:
    """A model and its image processor, loaded as ``transformers`` loads them. Nothing of it is compiled."""

    def __init__(self, case: Case, directory: Path, device: torch.device) -> None:
        self.case, self.device, self.processor = case, device, processor_of(case, directory)
        kind = getattr(transformers, case.model)
        self.model = kind.from_pretrained(directory, local_files_only=True).eval().to(device)

    @property
    def attention(self) -> str:
        """Which implementation of attention ``transformers`` chose."""
        return str(self.model.config._attn_implementation)

    @torch.inference_mode()
    def logits(self, pixel_values: Tensor, others: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """All that the model gives for pixel values, of which the logits are returned."""
        return logits_of(self.model(pixel_values=pixel_values, **others))

    @torch.inference_mode()
    def label(self, photos: Sequence[bytes], settings: Mapping[str, Any]) -> list[list[Segment]]:
        """One batch of files, from bytes to RLE."""
        images = [Image.open(io.BytesIO(photo)).convert("RGB") for photo in photos]
        inputs = inputs_of(self.case, self.processor, images)
        taken = {name: each.to(self.device) for name, each in inputs.items() if isinstance(each, Tensor)}
        outputs = self.model(**taken, **{name: each for name, each in inputs.items() if name not in taken})
        sizes = [(image.height, image.width) for image in images]
        return post_process(self.processor, outputs, self.case.task, sizes, settings)


def logits_of(outputs: Any) -> tuple[Tensor, ...]:
    """The logits of an output of any family."""
    names = ("class_queries_logits", "masks_queries_logits", "logits", "pred_masks")
    return tuple(outputs[name] for name in names if outputs.get(name) is not None)


@torch.inference_mode()
def post_process(
    processor: Any, outputs: Any, task: Task, sizes: list[SizeHW], settings: Mapping[str, Any]
) -> list[list[Segment]]:
    """Segments of a batch by the processor's own ``post_process_*``, with the thresholds of ``settings``."""
    named: dict[str, Any] = {"target_sizes": sizes}
    if task == "semantic":
        maps = processor.post_process_semantic_segmentation(outputs, **named)
        winners = [[(0.0, label, encode(each == label)) for label in each.unique().tolist()] for each in maps]
        return [_segments(found, size) for found, size in zip(winners, sizes, strict=True)]
    named["threshold"] = settings["score_threshold"]
    kind = type(processor).__name__
    if task == "panoptic":
        stuff = sorted(settings["stuff_ids"])
        named |= {"overlap_mask_area_threshold": settings["overlap_threshold"]}
        named |= {"stuff_classes": stuff} if kind.startswith("Eomt") else {"label_ids_to_fuse": set(stuff)}
        results = processor.post_process_panoptic_segmentation(outputs, **named)
    else:
        if not kind.startswith(("Eomt", "OneFormer")):  # which know no masks that overlap
            named["return_binary_maps"] = True
        results = processor.post_process_instance_segmentation(outputs, **named)
    return [_segments(_found(result), size) for result, size in zip(results, sizes, strict=True)]


def _found(result: Mapping[str, Any]) -> Found:
    """Every mask as RLE. Where ids collide, and where stuff was merged, an id is listed once a part."""
    masks, infos = result["segmentation"], result["segments_info"]
    if not infos:
        return []
    if masks.dim() == 3:
        pairs = list(zip(infos, masks, strict=True))
    else:
        pairs = [(info, masks == info["id"]) for info in {info["id"]: info for info in infos}.values()]
    return [(float(info["score"]), int(info["label_id"]), encode(mask)) for info, mask in pairs]


def _segments(found: Found, size: SizeHW) -> list[Segment]:
    return [
        Segment(
            number,
            label,
            "",
            score,
            int(coco_mask.area(rle)),
            tuple(coco_mask.toBbox(rle).tolist()),
            rle["counts"].decode(),
            size,
        )
        for number, (score, label, rle) in enumerate(found, start=1)
    ]
