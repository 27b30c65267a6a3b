"""Holds the rules that EoMT (https://arxiv.org/abs/2503.19108) has with every backbone.

The original's own inference is ``training/lightning_module.py`` of https://github.com/tue-mps/eomt. Panoptic and
instance put the whole image on a square, padded with black. Semantic slides windows of that square along the image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from m2f_batch.config.segment import AspectSize, ExactSize, Size, SlidingWindow, Task
from m2f_batch.errors import UsageError
from m2f_batch.models.eomt.small_tensors import small_tensor
from m2f_batch.models.family import JsonMapping, Shapes
from m2f_batch.models.label_sets import LabelSet
from m2f_batch.models.mask_families.rules import POSTPROCESS
from m2f_batch.models.preprocess_plan import PreprocessPlan
from m2f_batch.models.processor import NO_EDGE, plan_from_processor

PROCESSORS = frozenset(
    f"{family}ImageProcessor{kind}" for family in ("Eomt", "EomtDinov3") for kind in ("", "Fast", "Pil")
)
IMAGE_SIZE, PATCH_SIZE = 640, 16  # the defaults of transformers
# along a thin image. The original knows no bound: the edge of one pixel would make thousands, and gigabytes
MOST_WINDOWS = 64
PROBABILITIES = "attn_mask_probs"  # of each of the last blocks: is attention masked, as while it was trained?
NOTE = "as the original does, not as transformers' image processor"


def image_size(config: JsonMapping) -> int:
    """Return the edge of the square that the model sees, in pixels. It cannot see another."""
    return int(config.get("image_size", IMAGE_SIZE))


def config_problems(config: JsonMapping) -> Iterator[str]:
    """Answer ``Family.config_problems``."""
    size, patch = config.get("image_size", IMAGE_SIZE), config.get("patch_size", PATCH_SIZE)
    for key, value in (("image_size", size), ("patch_size", patch)):
        if type(value) is not int or not 0 < value <= 1 << 14:
            yield f"{key} must be a number of pixels, not {value!r}"
            return
    if size % patch:
        yield f"image_size {size} must be a multiple of patch_size {patch}"
    if config.get("num_channels", 3) != 3:
        yield f"num_channels must be 3, not {config['num_channels']!r}"


def weight_problems(config: JsonMapping, shapes: Shapes) -> Iterator[str]:
    """Answer ``Family.weight_problems``."""
    if PROBABILITIES not in shapes:
        yield (
            f"the weights have no {PROBABILITIES}, which says whether attention is masked in the last blocks: add "
            "zeros if masking was annealed while it was trained, or ones if it was not"
        )


def value_problems(files: Sequence[Path]) -> Iterator[str]:
    """Answer ``Family.value_problems``.

    transformers and the original draw masks at random, in inference too, where a probability lies between 0 and 1.
    Published weights with DINOv3 may have -1 for 0, because differences were taken of what begins with 1.
    """
    found = small_tensor(files, PROBABILITIES)
    if any(not (value <= 0 or value >= 1) for value in found):
        yield (
            f"{PROBABILITIES} is [{', '.join(f'{value:g}' for value in found)}]: its masked attention is not annealed, "
            "and would be drawn at random for each image; train it to the end, or set all to 0 (plain attention) or to "
            "1 (masked attention)"
        )


def pixels(config: JsonMapping, processor: JsonMapping, task: Task) -> PreprocessPlan:
    """Answer ``PixelRules.own``: normalized as the image processor says, sized as the original does (``round``)."""
    edge = image_size(config)
    plan = plan_from_processor({**processor, "size": {"height": edge, "width": edge}, "pad_size": None}, PROCESSORS)
    plan = replace(plan, divisor=1, round_content=False, rounding="round", note=NOTE)
    if task == "semantic":  # windows are cut from it
        size = AspectSize(shortest_edge=edge, longest_edge=NO_EDGE)
        return replace(plan, size=size, lone_edge=True, most_edge=MOST_WINDOWS * edge)
    return replace(plan, size=AspectSize(shortest_edge=edge, longest_edge=edge), pad_size=(edge, edge), pads_black=True)


def paper(config: JsonMapping, plan: PreprocessPlan, label_set: LabelSet, task: Task) -> PreprocessPlan:
    """Answer ``PixelRules.paper``: the pixels of the checkpoint are those of its test."""
    return plan


def sized(config: JsonMapping, plan: PreprocessPlan, size: Size) -> PreprocessPlan:
    """Answer ``PixelRules.sized``. Raises UsageError for all but the one size at which the model runs."""
    edge = image_size(config)
    if size != ExactSize(height=edge, width=edge):
        raise UsageError(
            f"is not what this model can see, which is {edge}x{edge} pixels",
            field="preprocess.size",
            value=size.model_dump(),
            allowed=f"checkpoint, paper, {{height: {edge}, width: {edge}}}",
        )
    return replace(plan, size=size, pad_size=None, lone_edge=False, pads_black=False, most_edge=None, note="")


def windows(config: JsonMapping, label_set: LabelSet | None, task: Task) -> SlidingWindow | None:
    """Answer ``PixelRules.windows``: as few as cover the image, which lie evenly."""
    return SlidingWindow(size=image_size(config)) if task == "semantic" else None


def settings(config: JsonMapping, trained: Task | None, label_set: LabelSet | None, task: Task) -> JsonMapping:
    """Answer ``TaskRules.settings``: Mask2Former's, for every label set."""
    return dict(POSTPROCESS[task])
