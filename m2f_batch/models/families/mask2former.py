"""Mask2Former (https://arxiv.org/abs/2112.01527) answers all three tasks with its panoptic checkpoints."""

from typing import TYPE_CHECKING

from m2f_batch.config.segment import Task
from m2f_batch.models.backbone_configs import backbone_problems
from m2f_batch.models.family import Family, JsonMapping, Network, NewModel, PixelRules, Published, TaskRules
from m2f_batch.models.label_sets import LABEL_SETS, LabelSet
from m2f_batch.models.mask_families.rules import (
    CLASS_PREDICTOR,
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
    from m2f_batch.models.training import Training

MAPILLARY_PANOPTIC = {"score_threshold": 0.0}  # of the paper's config for Mapillary Vistas
INSTANCE_EDGES = {"COCO instance": (800, 1333), "Cityscapes instance": (1024, 2048)}


def _pixels(config: JsonMapping, processor: JsonMapping, task: Task) -> PreprocessPlan:
    return plan_from_processor(processor, PROCESSORS)


def _paper(config: JsonMapping, plan: PreprocessPlan, label_set: LabelSet, task: Task) -> PreprocessPlan | None:
    small = task == "semantic" and is_small(config)
    return as_detectron2(plan, label_set, small_ade20k=small, more=INSTANCE_EDGES)


def _settings(config: JsonMapping, trained: Task | None, label_set: LabelSet | None, task: Task) -> JsonMapping:
    is_mapillary = task == "panoptic" and label_set is not None and label_set.name == "Mapillary Vistas"
    return {**POSTPROCESS[task], **(MAPILLARY_PANOPTIC if is_mapillary else {})}


def _network() -> Network:
    from m2f_batch.models.mask2former.check import FastMask2FormerForward
    from m2f_batch.models.mask2former.transformers_model import load, predict

    return Network(load, predict, FastMask2FormerForward())


def _training() -> "Training":
    from m2f_batch.models.mask2former.training import TRAINING

    return TRAINING


FAMILY = Family(
    name="Mask2Former",
    model_type="mask2former",
    class_name="Mask2FormerForUniversalSegmentation",
    head=CLASS_PREDICTOR,
    network=_network,
    pixels=PixelRules(own=_pixels, paper=_paper),
    tasks=TaskRules(tasks_as_trained, _settings),
    config_problems=backbone_problems,
    weight_problems=weight_problems,
    # the cards of the published zoo say "other", but the zoo says this
    published=Published(licenses={"facebook/mask2former-": "cc-by-nc-4.0"}),
    label_sets=LABEL_SETS,
    training=_training,
    new_model=NewModel(
        processor={
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
        queries=100,
    ),
)
