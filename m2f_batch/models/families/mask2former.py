"""Mask2Former (https://arxiv.org/abs/2112.01527) answers all three tasks with its panoptic checkpoints."""

from pathlib import Path
from typing import TYPE_CHECKING

from m2f_batch.config.segment import Task
from m2f_batch.models.backbone_configs import backbone_problems
from m2f_batch.models.family import Family, FastForward, JsonMapping
from m2f_batch.models.label_sets import LABEL_SETS, LabelSet
from m2f_batch.models.mask_families.rules import (
    POSTPROCESS,
    PROCESSORS,
    as_detectron2,
    is_small,
    tasks_as_trained,
    weight_problems,
)
from m2f_batch.models.preprocess_plan import IMAGENET_MEAN, IMAGENET_STD, PreprocessPlan
from m2f_batch.models.processor import plan_from_processor

if TYPE_CHECKING:
    from torch import Tensor, nn

    from m2f_batch.models.predictions import Prediction
    from m2f_batch.models.training import Training

MAPILLARY_PANOPTIC = {"score_threshold": 0.0}  # of the paper's config for Mapillary Vistas
INSTANCE_EDGES = {"COCO instance": (800, 1333), "Cityscapes instance": (1024, 2048)}


def _pixels(config: JsonMapping, processor: JsonMapping, task: Task) -> PreprocessPlan:
    return plan_from_processor(processor, PROCESSORS)


def _paper(config: JsonMapping, plan: PreprocessPlan, label_set: LabelSet, task: Task) -> PreprocessPlan | None:
    small = task == "semantic" and is_small(config)
    return as_detectron2(plan, label_set, small_ade20k=small, more=INSTANCE_EDGES)


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
    tasks=tasks_as_trained,
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
