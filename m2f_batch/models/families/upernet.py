"""Takes UperNet (https://arxiv.org/abs/1807.10221), as mmsegmentation tests it with each backbone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from m2f_batch.config.segment import SlidingWindow, Task
from m2f_batch.models.backbone_configs import backbone_problems, names_backbone, natten_problems, timm_problems
from m2f_batch.models.family import Family, JsonMapping, Network, PixelRules, Published, Shapes
from m2f_batch.models.label_sets import LabelSet
from m2f_batch.models.pixel_families.rules import (
    DECODE_HEAD,
    SEMANTIC,
    are_counts,
    as_mmsegmentation,
    edge_problem,
    processor_pixels,
)
from m2f_batch.models.preprocess_plan import PreprocessPlan

STRIDE = 32  # of the coarsest features
# backbones of which a model was run here at every size, with batches and alone
BACKBONES = ("convnext", "convnextv2", "focalnet", "pvt_v2", "resnet", "swin", "swinv2", "timm_backbone")
TIMM_TENSORS = "backbone._backbone."  # tensors of a backbone of timm begin so
ADE20K = (512, 2048)
CITYSCAPES = (1024, 2048)
# ConvNeXt's first width, from which on its large models are tested larger, and their windows
LARGE_CONVNEXT, LARGE_ADE20K = 192, (640, 2560)
CONVNEXT_WINDOWS = {False: SlidingWindow(size=512, stride=341), True: SlidingWindow(size=640, stride=426)}


def _backbone(config: JsonMapping) -> str:
    """Return the ``model_type`` of the backbone. A config.json without one has transformers' default."""
    backbone = config.get("backbone_config")
    if isinstance(backbone, dict):
        return str(backbone.get("model_type"))
    return "timm_backbone" if names_backbone(config) else "resnet"


def _config_problems(config: JsonMapping) -> Iterator[str]:
    yield from backbone_problems(config)
    kind = _backbone(config)
    able = f"UperNet runs with {', '.join(BACKBONES)}"
    yield from (f"{problem}; {able}" for problem in natten_problems(config))
    if kind not in BACKBONES:
        yield f"the backbone {kind!r} is not supported; {able}"
    widths = _widths(config)
    if not are_counts(widths):
        yield f"hidden_sizes of backbone_config must be a list of numbers, not {widths!r}"


def _weight_problems(config: JsonMapping, shapes: Shapes) -> Iterator[str]:
    return timm_problems(config, shapes, TIMM_TENSORS)


def _pixels(config: JsonMapping, processor: JsonMapping, task: Task) -> PreprocessPlan:
    return replace(processor_pixels(processor, ("Segformer", "Beit")), least_edge=STRIDE)


def _widths(config: JsonMapping) -> Sequence[int]:
    """Return the widths of the backbone's stages, a list of numbers in a checked config.json."""
    backbone = config.get("backbone_config")
    widths: Sequence[int] | None = backbone.get("hidden_sizes") if isinstance(backbone, dict) else None
    return widths or [0]


def _is_large_convnext(config: JsonMapping) -> bool:
    return bool(_widths(config)[0] >= LARGE_CONVNEXT)


def _paper(config: JsonMapping, plan: PreprocessPlan, label_set: LabelSet, task: Task) -> PreprocessPlan | None:
    kind = _backbone(config)
    if label_set.name == "ADE20K" and kind in ("convnext", "resnet", "swin"):
        return as_mmsegmentation(plan, *(LARGE_ADE20K if kind == "convnext" and _is_large_convnext(config) else ADE20K))
    if label_set.name == "Cityscapes" and kind == "resnet":
        return as_mmsegmentation(plan, *CITYSCAPES)
    return None


def _windows(config: JsonMapping, label_set: LabelSet | None, task: Task) -> SlidingWindow | None:
    is_convnext = label_set is not None and label_set.name == "ADE20K" and _backbone(config) == "convnext"
    return CONVNEXT_WINDOWS[_is_large_convnext(config)] if is_convnext else None


def _size_problem(config: JsonMapping, plan: PreprocessPlan) -> str | None:
    return edge_problem(plan, multiple=1, least=STRIDE)


def _network() -> Network:
    from m2f_batch.models.pixel_families.fast_upernet import FastUperNetForward
    from m2f_batch.models.pixel_families.transformers_model import load_upernet, predict_upernet

    return Network(load_upernet, predict_upernet, FastUperNetForward())


FAMILY = Family(
    name="UperNet",
    model_type="upernet",
    class_name="UperNetForSemanticSegmentation",
    head=DECODE_HEAD,
    network=_network,
    pixels=PixelRules(own=_pixels, paper=_paper, size_problem=_size_problem, windows=_windows),
    tasks=SEMANTIC,
    config_problems=_config_problems,
    weight_problems=_weight_problems,
    published=Published(licenses={"openmmlab/upernet-": "mit"}, labels={"openmmlab/upernet-*": "ADE20K"}),
)
