"""MobileViTv2 with DeepLabV3 (https://arxiv.org/abs/2206.02680) keeps the aspect ratio, and sees red first.

Source of the rules: apple/ml-cvnets v0.2 and later, ``engine/eval_segmentation.py``.
"""

from dataclasses import replace

from m2f_batch.config.segment import AspectSize, Task
from m2f_batch.models.family import ClassHead, Family, JsonMapping, Network, PixelRules, Published
from m2f_batch.models.label_sets import LabelSet
from m2f_batch.models.mobilevit.processor import PUBLISHED_EDGE, CropProcessor, stride_problems
from m2f_batch.models.pixel_families.rules import SEMANTIC
from m2f_batch.models.preprocess_plan import PreprocessPlan
from m2f_batch.models.processor import NO_EDGE

MOST_EDGE = 64 * PUBLISHED_EDGE  # the original has no bound: one row of 5000 pixels would be a canvas of 512 x 2560000


def _pixels(config: JsonMapping, processor: JsonMapping, task: Task) -> PreprocessPlan:
    settings = CropProcessor.of(processor)
    return replace(
        settings.plan(AspectSize(shortest_edge=min(settings.edges), longest_edge=NO_EDGE)),
        lone_edge=True,
        most_edge=MOST_EDGE,
        note="as ml-cvnets sees it: red first and all of the image, where transformers swaps red and blue and cuts the "
        "middle out",
    )


def _paper(config: JsonMapping, plan: PreprocessPlan, label_set: LabelSet, task: Task) -> PreprocessPlan | None:
    return replace(plan, size=AspectSize(shortest_edge=PUBLISHED_EDGE, longest_edge=NO_EDGE))


def _settings(config: JsonMapping, trained: Task | None, label_set: LabelSet | None, task: Task) -> JsonMapping:
    return {"upsampling": "corners"}


def _network() -> Network:
    from m2f_batch.models.mobilevit.transformers_model import load, predict_second

    return Network(load, predict_second)


FAMILY = Family(
    name="MobileViTv2",
    model_type="mobilevitv2",
    class_name="MobileViTV2ForSemanticSegmentation",
    head=ClassHead("segmentation_head.classifier.convolution.weight"),
    network=_network,
    pixels=PixelRules(own=_pixels, paper=_paper),
    tasks=replace(SEMANTIC, settings=_settings),
    config_problems=stride_problems,
    published=Published(
        licenses={"apple/mobilevitv2-": "apple-amlr"},
        labels={"apple/mobilevitv2-*-voc-deeplabv3": "Pascal VOC"},
    ),
)
