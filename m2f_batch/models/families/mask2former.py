"""Mask2Former (https://arxiv.org/abs/2112.01527) answers all three tasks with its panoptic checkpoints."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from m2f_batch.config.segment import AspectSize, Task
from m2f_batch.models.backbone_configs import backbone_problems, timm_problems
from m2f_batch.models.family import Family, FastForward, JsonMapping, Shapes
from m2f_batch.models.label_sets import LABEL_SETS, LabelSet
from m2f_batch.models.preprocess_plan import IMAGENET_MEAN, IMAGENET_STD, PreprocessPlan, with_size
from m2f_batch.models.processor import plan_from_processor

if TYPE_CHECKING:
    from torch import Tensor, nn

    from m2f_batch.models.predictions import Prediction
    from m2f_batch.models.training import Training

# the processors whose arithmetic is ours, by today's names and by those of older checkpoints
PROCESSORS = frozenset(
    f"{family}{kind}"
    for family in ("Mask2Former", "MaskFormer")
    for kind in ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")
)
# a panoptic model answers all three (paper, section 4.3), because the others were never taught what the rest needs
TASKS: dict[Task | None, tuple[Task, ...]] = {
    None: ("instance", "semantic", "panoptic"),
    "panoptic": ("instance", "semantic", "panoptic"),
    "instance": ("instance",),
    "semantic": ("semantic",),
}
POSTPROCESS: dict[Task, JsonMapping] = {
    "instance": {"score_threshold": 0.5, "mask_threshold": 0.5, "top_k": 100},
    "panoptic": {"score_threshold": 0.8, "mask_threshold": 0.5, "overlap_threshold": 0.8},
    "semantic": {},
}
MAPILLARY_PANOPTIC = {"score_threshold": 0.0}  # of the paper's config for Mapillary Vistas
PAPER_SIZES = {
    "COCO panoptic": (800, 1333),
    "COCO instance": (800, 1333),
    "Cityscapes": (1024, 2048),
    "Cityscapes instance": (1024, 2048),
    "ADE20K": (640, 2560),
    "Mapillary Vistas": (2048, 2048),
}
SMALL_ADE20K, SMALL_WIDTH = (512, 2048), 96  # of semantic models up to Swin-S, or with no Swin
# tensors of a backbone of timm begin so
TIMM_TENSORS = "model.pixel_level_module.encoder._backbone."


def _tasks(config: JsonMapping, trained: Task | None, label_set: LabelSet | None) -> tuple[Task, ...]:
    return TASKS[trained]


def weight_problems(config: JsonMapping, shapes: Shapes) -> Iterator[str]:
    """``Family.weight_problems``, of MaskFormer and OneFormer too."""
    return timm_problems(config, shapes, TIMM_TENSORS)


def _pixels(config: JsonMapping, processor: JsonMapping, task: Task) -> PreprocessPlan:
    return plan_from_processor(processor, PROCESSORS)


def _paper(config: JsonMapping, plan: PreprocessPlan, label_set: LabelSet, task: Task) -> PreprocessPlan | None:
    edges, width = PAPER_SIZES.get(label_set.name), backbone_width(config)
    if label_set.name == "ADE20K" and task == "semantic" and (width is None or width <= SMALL_WIDTH):
        edges = SMALL_ADE20K
    if edges is None:
        return None
    return with_size(plan, AspectSize(shortest_edge=edges[0], longest_edge=edges[1]), rounding="detectron2")


def backbone_width(config: JsonMapping) -> int | None:
    """Return ``embed_dim`` of a Swin backbone (96 for tiny and small), else None."""
    width = (config.get("backbone_config") or {}).get("embed_dim")
    return width if isinstance(width, int) else None


def _postprocess(config: JsonMapping, trained: Task | None, label_set: LabelSet | None, task: Task) -> JsonMapping:
    is_mapillary = task == "panoptic" and label_set is not None and label_set.name == "Mapillary Vistas"
    return {**POSTPROCESS[task], **(MAPILLARY_PANOPTIC if is_mapillary else {})}


def _load(directory: Path, config: JsonMapping, task: Task | None) -> "nn.Module":
    from m2f_batch.models.mask2former.transformers_model import load

    return load(directory, config)


def _predict(model: "nn.Module", pixel_values: "Tensor") -> "Prediction":
    from m2f_batch.models.mask2former.transformers_model import predict

    return predict(model, pixel_values)


def _fast() -> FastForward:
    from m2f_batch.models.mask2former.check import FastMask2FormerForward

    return FastMask2FormerForward()


def _training() -> "Training":
    from m2f_batch.models.mask2former.training import TRAINING

    return TRAINING


FAMILY = Family(
    name="Mask2Former",
    model_type="mask2former",
    class_name="Mask2FormerForUniversalSegmentation",
    class_head="class_predictor.weight",
    no_object=True,
    tasks=_tasks,
    config_problems=backbone_problems,
    weight_problems=weight_problems,
    pixels=_pixels,
    paper=_paper,
    postprocess=_postprocess,
    load=_load,
    predict=_predict,
    fast=_fast,
    training=_training,
    new_processor={
        "image_processor_type": "Mask2FormerImageProcessor",
        "do_resize": True,
        "size_divisor": 32,
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    },
    label_sets=LABEL_SETS,
    new_queries=100,
    is_default=True,
    # the cards of the published zoo say "other", but the zoo says this
    licenses={"facebook/mask2former-": "cc-by-nc-4.0"},
)
