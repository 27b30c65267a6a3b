"""Takes SegFormer (https://arxiv.org/abs/2105.15203), as its own repository tests it."""

from collections.abc import Iterator
from dataclasses import replace

from m2f_batch.config.segment import AspectSize, Size, SlidingWindow, Task
from m2f_batch.models.family import Family, JsonMapping, Network, PixelRules, Published
from m2f_batch.models.label_sets import LabelSet
from m2f_batch.models.pixel_families.rules import (
    DECODE_HEAD,
    SEMANTIC,
    are_counts,
    as_mmsegmentation,
    edge_problem,
    names_in,
    processor_pixels,
)
from m2f_batch.models.preprocess_plan import PreprocessPlan, with_size

STRIDE = 32  # of the coarsest features: a shorter edge leaves nothing for the attention to look at
B5 = (3, 6, 40, 3)  # its depths
# local_configs/segformer: shortest and longest edge, and the windows where the test slides them
ADE20K, ADE20K_B5 = (512, 2048), (640, 2048)
CITYSCAPES = ((1024, 2048), SlidingWindow(size=1024, stride=768))
SMALLER_CITYSCAPES = {
    "cityscapes-768-768": ((768, 1536), SlidingWindow(size=768, stride=768)),
    "cityscapes-640-1280": ((640, 1280), None),
    "cityscapes-512-1024": ((512, 1024), None),
}


def _config_problems(config: JsonMapping) -> Iterator[str]:
    blocks = config.get("num_encoder_blocks", 4)
    if not isinstance(blocks, int) or not 1 <= blocks <= 8:
        yield f"num_encoder_blocks must be a number of stages, not {blocks!r}"
    depths = config.get("depths", [])
    if not are_counts(depths):
        yield f"depths must be a list of numbers of blocks, not {depths!r}"


def _pixels(config: JsonMapping, processor: JsonMapping, task: Task) -> PreprocessPlan:
    return replace(processor_pixels(processor, ("Segformer",)), least_edge=STRIDE)


def _paper(config: JsonMapping, plan: PreprocessPlan, label_set: LabelSet, task: Task) -> PreprocessPlan | None:
    if label_set.name == "ADE20K":
        edges = ADE20K_B5 if tuple(config.get("depths", ())) == B5 else ADE20K
        return as_mmsegmentation(plan, *edges, stretch_to=STRIDE)
    if label_set.name == "Cityscapes":
        return as_mmsegmentation(plan, *_cityscapes(config)[0])
    return None


def _cityscapes(config: JsonMapping) -> tuple[tuple[int, int], SlidingWindow | None]:
    """Return the test of Cityscapes, which only the name of three smaller models tells."""
    name = names_in(config)
    return next((test for ending, test in SMALLER_CITYSCAPES.items() if ending in name), CITYSCAPES)


def _windows(config: JsonMapping, label_set: LabelSet | None, task: Task) -> SlidingWindow | None:
    is_cityscapes = label_set is not None and label_set.name == "Cityscapes"
    return _cityscapes(config)[1] if is_cityscapes else None


def _sized(config: JsonMapping, plan: PreprocessPlan, size: Size) -> PreprocessPlan:
    return replace(with_size(plan, size), stretch_to=STRIDE if isinstance(size, AspectSize) else 1)


def _size_problem(config: JsonMapping, plan: PreprocessPlan) -> str | None:
    return edge_problem(plan, multiple=1, least=STRIDE)


def _network() -> Network:
    from m2f_batch.models.pixel_families.transformers_model import load_segformer, predict_segformer

    return Network(load_segformer, predict_segformer)


FAMILY = Family(
    name="SegFormer",
    model_type="segformer",
    class_name="SegformerForSemanticSegmentation",
    head=DECODE_HEAD,
    network=_network,
    pixels=PixelRules(own=_pixels, paper=_paper, sized=_sized, size_problem=_size_problem, windows=_windows),
    tasks=SEMANTIC,
    config_problems=_config_problems,
    published=Published(
        licenses={
            "nvidia/segformer-": "nvidia-source-code-license",
            "nvidia/mit-": "nvidia-source-code-license",
        },
        labels={"nvidia/segformer-*-ade-*": "ADE20K", "nvidia/segformer-*-cityscapes-*": "Cityscapes"},
    ),
)
