"""Families that give each query a class and a mask share these rules: tasks, thresholds, published tests, backbones.

Sources: Mask2Former (https://arxiv.org/abs/2112.01527, section 4) and the configs of facebookresearch/Mask2Former,
facebookresearch/MaskFormer and SHI-Labs/OneFormer.
"""

from collections.abc import Iterator, Mapping

from m2f_batch.config.segment import AspectSize, Task
from m2f_batch.models.backbone_configs import timm_problems
from m2f_batch.models.family import ClassHead, JsonMapping, Shapes
from m2f_batch.models.label_sets import LabelSet
from m2f_batch.models.preprocess_plan import PreprocessPlan, with_size
from m2f_batch.models.processor import processors_of

CLASS_PREDICTOR = ClassHead("class_predictor.weight", no_object=True)
# the processors whose arithmetic is ours
PROCESSORS = processors_of("Mask2Former", "MaskFormer")
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
# shortest and longest edge of the published tests, by label set
EDGES = {
    "COCO panoptic": (800, 1333),
    "Cityscapes": (1024, 2048),
    "ADE20K": (640, 2560),
    "Mapillary Vistas": (2048, 2048),
}
SMALL_ADE20K, SMALL_WIDTH = (512, 2048), 96  # of models up to Swin-S, or with no Swin
# tensors of a backbone of timm begin so
TIMM_TENSORS = "model.pixel_level_module.encoder._backbone."


def tasks_as_trained(config: JsonMapping, trained: Task | None, label_set: LabelSet | None) -> tuple[Task, ...]:
    """Answer ``TaskRules.able``: all three, unless the model was trained for instance or semantic alone."""
    return TASKS[trained]


def weight_problems(config: JsonMapping, shapes: Shapes) -> Iterator[str]:
    """Answer ``Family.weight_problems``: a backbone that is only named must be one of timm."""
    return timm_problems(config, shapes, TIMM_TENSORS)


def backbone_width(config: JsonMapping) -> int | None:
    """Return ``embed_dim`` of a Swin backbone (96 for tiny and small), else None."""
    width = (config.get("backbone_config") or {}).get("embed_dim")
    return width if isinstance(width, int) else None


def is_small(config: JsonMapping) -> bool:
    """Tell whether the backbone is a Swin up to Swin-S, or none."""
    width = backbone_width(config)
    return width is None or width <= SMALL_WIDTH


def as_detectron2(
    plan: PreprocessPlan,
    label_set: LabelSet,
    *,
    small_ade20k: bool,
    more: Mapping[str, tuple[int, int]] | None = None,
) -> PreprocessPlan | None:
    """Make the plan of the published test on a label set, with edges rounded by detectron2, or give None.

    ``more`` are edges of label sets that the family knows beside those of all.
    """
    edges = {**EDGES, **(more or {})}.get(label_set.name)
    if label_set.name == "ADE20K" and small_ade20k:
        edges = SMALL_ADE20K
    if edges is None:
        return None
    return with_size(plan, AspectSize(shortest_edge=edges[0], longest_edge=edges[1]), rounding="detectron2")
