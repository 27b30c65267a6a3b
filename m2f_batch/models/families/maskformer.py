"""MaskFormer (https://arxiv.org/abs/2107.06278) classifies masks for semantic and panoptic results.

Source of the rules: facebookresearch/MaskFormer, ``mask_former/mask_former_model.py`` and its configs.
"""

from collections.abc import Iterator
from dataclasses import replace

from m2f_batch.config.segment import Task
from m2f_batch.models.backbone_configs import backbone_problems, natten_problems
from m2f_batch.models.family import Family, JsonMapping, Network, PixelRules, Published, TaskRules
from m2f_batch.models.label_sets import LabelSet, label_set_of
from m2f_batch.models.mask_families.rules import (
    CLASS_PREDICTOR,
    POSTPROCESS,
    PROCESSORS,
    as_detectron2,
    is_small,
    weight_problems,
)
from m2f_batch.models.preprocess_plan import PreprocessPlan
from m2f_batch.models.processor import DIVISOR, plan_from_processor

STUFF_EDGES = {"COCO-Stuff": (640, 2560)}
PANOPTIC = {**POSTPROCESS["panoptic"], "keep_unsure": True}
ADE20K_PANOPTIC = {"score_threshold": 0.7}
ON_COCO = "nothing is added, as in MaskFormer's own test on COCO, where transformers makes up to multiples of 32"
LEGACY = "by size_divisibility of an older transformers, which today's passes over"
NO_INSTANCE = (
    "its paper and its code know no instance results, and no score for one, and those of transformers are "
    "Mask2Former's; a Mask2Former, OneFormer, EoMT or RF-DETR model finds instances"
)


def _tasks(config: JsonMapping, trained: Task | None, label_set: LabelSet | None) -> tuple[Task, ...]:
    if trained == "semantic":
        return ("semantic",)
    if trained is None and label_set is not None and label_set.name != "COCO panoptic":
        return ("semantic",)  # as all published ones are
    return ("panoptic", "semantic")


def _config_problems(config: JsonMapping) -> Iterator[str]:
    yield from backbone_problems(config)
    yield from natten_problems(config)
    decoder = config.get("decoder_config")
    if decoder is not None and not isinstance(decoder, dict):
        yield f"decoder_config must be an object, not {decoder!r}"
    elif decoder and decoder.get("model_type", "detr") != "detr":
        yield f"decoder_config.model_type must be detr, not {decoder['model_type']!r}"


def _is_coco(label_set: LabelSet | None) -> bool:
    return label_set is not None and label_set.name == "COCO panoptic"


def _pixels(config: JsonMapping, processor: JsonMapping, task: Task) -> PreprocessPlan:
    """Read the processor's own, but ``size_divisibility`` counts, and on COCO nothing is added to an image.

    Version 4 stretched an image to multiples of it. Version 5 passes over the key, and stretches to multiples of 32.
    """
    legacy = processor.get("size_divisibility") if processor.get("size_divisor") is None else None
    if legacy is not None:
        processor = {**processor, "size_divisor": legacy}
    plan = plan_from_processor(processor, PROCESSORS)
    if _is_coco(label_set_of(config)):
        return replace(plan, divisor=0, round_content=False, note=ON_COCO)
    if legacy is not None and plan.divisor != DIVISOR:
        return replace(plan, note=LEGACY)
    return plan


def _paper(config: JsonMapping, plan: PreprocessPlan, label_set: LabelSet, task: Task) -> PreprocessPlan | None:
    plan = replace(plan, divisor=0 if _is_coco(label_set) else DIVISOR, note="")
    small = task == "semantic" and is_small(config)
    return as_detectron2(plan, label_set, small_ade20k=small, more=STUFF_EDGES)


def _settings(config: JsonMapping, trained: Task | None, label_set: LabelSet | None, task: Task) -> JsonMapping:
    is_ade = label_set is not None and label_set.name == "ADE20K"
    if task == "panoptic":
        return PANOPTIC | (ADE20K_PANOPTIC if is_ade else {})
    is_panoptic = trained == "panoptic" or (trained is None and _is_coco(label_set))
    return {"masks_first": True} if is_panoptic else {}


def _network() -> Network:
    from m2f_batch.models.maskformer.fast import FORWARD
    from m2f_batch.models.maskformer.transformers_model import load, predict

    return Network(load, predict, FORWARD)


FAMILY = Family(
    name="MaskFormer",
    model_type="maskformer",
    class_name="MaskFormerForInstanceSegmentation",
    head=CLASS_PREDICTOR,
    network=_network,
    pixels=PixelRules(own=_pixels, paper=_paper),
    tasks=TaskRules(_tasks, _settings, refusals={"instance": NO_INSTANCE}),
    config_problems=_config_problems,
    weight_problems=weight_problems,
    published=Published(
        licenses={"facebook/maskformer-": "cc-by-nc-4.0"},
        labels={
            "facebook/maskformer-*-coco": "COCO panoptic",
            "facebook/maskformer-*-ade": "ADE20K",
            "facebook/maskformer-*-coco-stuff": "COCO-Stuff",
            "facebook/maskformer-*-cityscapes": "Cityscapes",
        },
    ),
)
