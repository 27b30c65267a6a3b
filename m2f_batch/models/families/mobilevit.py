"""MobileViT with DeepLabV3 (https://arxiv.org/abs/2110.02178) sees a square of blue, green and red.

Source of the rules: apple/ml-cvnets v0.1, ``engine/eval_segmentation.py`` and ``data/datasets/dataset_base.py``.
"""

from dataclasses import replace

from m2f_batch.config.segment import ExactSize, Task
from m2f_batch.models.family import ClassHead, Family, JsonMapping, Network, PixelRules, Published
from m2f_batch.models.label_sets import LabelSet
from m2f_batch.models.mobilevit.processor import PUBLISHED_EDGE, CropProcessor, stride_problems
from m2f_batch.models.pixel_families.rules import SEMANTIC
from m2f_batch.models.preprocess_plan import PreprocessPlan, with_size


def _pixels(config: JsonMapping, processor: JsonMapping, task: Task) -> PreprocessPlan:
    settings = CropProcessor.of(processor)
    height, width = settings.edges
    return replace(
        settings.plan(ExactSize(height=height, width=width)),
        resizing="opencv",
        is_bgr=settings.do_flip_channel_order,
        note="as ml-cvnets sees it: all of the image, where transformers cuts its middle out",
    )


def _paper(config: JsonMapping, plan: PreprocessPlan, label_set: LabelSet, task: Task) -> PreprocessPlan | None:
    return with_size(plan, ExactSize(height=PUBLISHED_EDGE, width=PUBLISHED_EDGE))


def _size_problem(config: JsonMapping, plan: PreprocessPlan) -> str | None:
    stride, size = config.get("output_stride", 32), plan.size
    if not isinstance(size, ExactSize) or size.height % stride or size.width % stride:
        return f"MobileViT sees an exact height and width, which are multiples of its output stride, {stride}"
    return None


def _settings(config: JsonMapping, trained: Task | None, label_set: LabelSet | None, task: Task) -> JsonMapping:
    return {"upsampling": "nearest"}


def _network() -> Network:
    from m2f_batch.models.mobilevit.transformers_model import load, predict

    return Network(load, predict)


FAMILY = Family(
    name="MobileViT",
    model_type="mobilevit",
    class_name="MobileViTForSemanticSegmentation",
    head=ClassHead("segmentation_head.classifier.convolution.weight"),
    network=_network,
    pixels=PixelRules(own=_pixels, paper=_paper, size_problem=_size_problem),
    tasks=replace(SEMANTIC, settings=_settings),
    config_problems=stride_problems,
    published=Published(
        licenses={"apple/deeplabv3-mobilevit-": "apple-amlr"},
        labels={"apple/deeplabv3-mobilevit-*": "Pascal VOC"},
    ),
)
