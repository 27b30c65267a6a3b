"""RF-DETR-Seg (https://arxiv.org/abs/2511.09554) finds instances on a square.

Source of the rules: roboflow/rf-detr 1.11.2, ``models/postprocess.py``, ``detr.py`` and ``config.py``.
"""

from collections.abc import Iterator
from dataclasses import replace

from m2f_batch.config.segment import ExactSize, Task
from m2f_batch.models.family import ClassHead, Family, JsonMapping, Network, PixelRules, Published, Shapes, TaskRules
from m2f_batch.models.label_sets import LabelSet
from m2f_batch.models.preprocess_plan import PreprocessPlan, with_size
from m2f_batch.models.processor import plan_from_processor

AVERAGING = frozenset({"DetrImageProcessor", "DetrImageProcessorFast"})  # of published weights
PROCESSORS = frozenset({"RfDetrImageProcessor", "RfDetrImageProcessorFast"}) | AVERAGING
AS_ORIGINAL = "as RF-DETR 1.9 does, where a DetrImageProcessor averages"
BACKBONE = "rf_detr_dinov2"
NUM_QUERIES, NUM_WINDOWS, PATCH_SIZE = 300, 4, 14  # the defaults of transformers
PUBLISHED = {"score_threshold": 0.5, "mask_threshold": 0.5, "keep_empty": True}
# names of tensors as the original and save_pretrained have them, and as save_original_format=False leaves them
CLASS_HEAD, RENAMED_CLASS_HEAD = "class_embed.weight", "model.class_embed.weight"
SEGMENTATION_HEAD, RENAMED_SEGMENTATION_HEAD = "segmentation_head.bias", "spatial_features_proj.bias"


def _tasks(config: JsonMapping, trained: Task | None, label_set: LabelSet | None) -> tuple[Task, ...]:
    return ("instance",)


def _config_problems(config: JsonMapping) -> Iterator[str]:
    backbone = config.get("backbone_config")
    if not isinstance(backbone, dict) or backbone.get("model_type") != BACKBONE:
        kind = backbone.get("model_type") if isinstance(backbone, dict) else backbone
        yield f"the backbone of an RF-DETR must be a backbone_config of model_type {BACKBONE}, not {kind!r}"
        return
    numbers = {"num_queries": config.get("num_queries", NUM_QUERIES)}
    numbers |= {key: backbone.get(key, 1) for key in ("image_size", "patch_size", "num_windows")}
    for key, value in numbers.items():
        if type(value) is not int or value < 1:
            yield f"{key} must be a whole number above 0, not {value!r}"


def _weight_problems(config: JsonMapping, shapes: Shapes) -> Iterator[str]:
    head = SEGMENTATION_HEAD if CLASS_HEAD in shapes else RENAMED_SEGMENTATION_HEAD
    if head not in shapes:
        yield (
            f"its weights have no {head}, so it finds boxes and no masks; give an RF-DETR-Seg, e.g. "
            "Roboflow/rf-detr-seg-medium"
        )


def _pixels(config: JsonMapping, processor: JsonMapping, task: Task) -> PreprocessPlan:
    plan = plan_from_processor(processor, PROCESSORS)
    kind = processor.get("image_processor_type") or processor.get("feature_extractor_type")
    note = AS_ORIGINAL if kind in AVERAGING else ""
    return replace(plan, divisor=1, round_content=False, resizing="torch", note=note)


def _paper(config: JsonMapping, plan: PreprocessPlan, label_set: LabelSet, task: Task) -> PreprocessPlan | None:
    edge = config["backbone_config"].get("image_size")
    return None if edge is None else with_size(plan, ExactSize(height=edge, width=edge))


def _size_problem(config: JsonMapping, plan: PreprocessPlan) -> str | None:
    backbone, size = config["backbone_config"], plan.size
    patch = backbone.get("patch_size", PATCH_SIZE)
    multiple = patch * backbone.get("num_windows", NUM_WINDOWS)
    queries = config.get("num_queries", NUM_QUERIES)
    if not isinstance(size, ExactSize) or size.height != size.width or plan.pad_size is not None:
        return f"RF-DETR sees squares alone, whose edge is a multiple of {multiple}"
    if size.height % multiple:
        return f"the edge of the square that this RF-DETR sees must be a multiple of {multiple}, not {size.height}"
    if (size.height // patch) ** 2 < queries:
        return f"an edge of {size.height} has too few patches for the {queries} queries of this RF-DETR"
    return None


def _settings(config: JsonMapping, trained: Task | None, label_set: LabelSet | None, task: Task) -> JsonMapping:
    return PUBLISHED | {"top_k": config.get("num_queries", NUM_QUERIES)}


def _network() -> Network:
    from m2f_batch.models.rf_detr.transformers_model import load, predict

    return Network(load, predict)


FAMILY = Family(
    name="RF-DETR",
    model_type="rf_detr",
    class_name="RfDetrForInstanceSegmentation",
    head=ClassHead(CLASS_HEAD, renamed=RENAMED_CLASS_HEAD),
    network=_network,
    pixels=PixelRules(own=_pixels, paper=_paper, size_problem=_size_problem),
    tasks=TaskRules(_tasks, _settings),
    config_problems=_config_problems,
    weight_problems=_weight_problems,
    published=Published(
        licenses={"Roboflow/rf-detr-seg-": "apache-2.0"},
        labels={"Roboflow/rf-detr-seg-*": "COCO instance by id"},
    ),
)
