"""Takes BEiT with the UperNet head (https://arxiv.org/abs/2106.08254), as unilm's semantic segmentation tests it."""

from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase

from m2f_batch.config.segment import ExactSize, Size, SlidingWindow, Task
from m2f_batch.models.family import AsPublished, Family, JsonMapping, Network, PixelRules, Published
from m2f_batch.models.label_sets import LabelSet
from m2f_batch.models.pixel_families.rules import (
    DECODE_HEAD,
    SEMANTIC,
    as_mmsegmentation,
    edge_problem,
    processor_pixels,
)
from m2f_batch.models.preprocess_plan import IMAGENET_MEAN, IMAGENET_STD, PreprocessPlan, with_size

ADE20K = (640, 2560)
WINDOWS = SlidingWindow(size=640, stride=426)
PUBLISHED = "microsoft/beit-*-ade-*"
NOTE = "edges that were not trained on have their position bias interpolated"


def _config_problems(config: JsonMapping) -> Iterator[str]:
    patch = config.get("patch_size", 16)
    if type(patch) is not int or not 1 <= patch <= 256:
        yield f"patch_size must be a number of pixels, not {patch!r}"
    indices = config.get("out_indices") or config.get("segmentation_indices") or config.get("out_features")
    if not isinstance(indices, list) or len(indices) != 4:
        yield f"out_indices must name the four layers that the head sees, e.g. [3, 5, 7, 11], not {indices!r}"


def _patch(config: JsonMapping) -> int:
    """Return the pixels along an edge of a patch. Of a partial one at the border the model sees nothing."""
    patch: int = config.get("patch_size", 16)
    return patch


def _pixels(config: JsonMapping, processor: JsonMapping, task: Task) -> PreprocessPlan:
    plan, patch = processor_pixels(processor, ("Beit", "Segformer")), _patch(config)
    return plan if isinstance(plan.size, ExactSize) else _padded(plan, patch)


def _padded(plan: PreprocessPlan, patch: int) -> PreprocessPlan:
    return replace(plan, divisor=patch, round_content=False, note=NOTE)


def _normalized(plan: PreprocessPlan) -> PreprocessPlan:
    """Normalize as unilm's configs/_base_/datasets/ade20k_640x640.py. The processor on the hub says 0.5 and 0.5."""
    return replace(plan, rescale_factor=1 / 255, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _is_published(config: JsonMapping, name: str) -> bool:
    """Tell the weights of the authors: by the hub id, or by a key that no model saved by transformers has alone."""
    own, saved = config.get("segmentation_indices"), config.get("out_indices") or config.get("out_features")
    indices, blocks = config.get("out_indices") or own, config.get("num_hidden_layers", 12)
    is_theirs = fnmatchcase(name.casefold(), PUBLISHED) or (own is not None and not saved)
    return is_theirs and isinstance(indices, list) and all(type(i) is int and 0 <= i < blocks for i in indices)


def _paper(config: JsonMapping, plan: PreprocessPlan, label_set: LabelSet, task: Task) -> PreprocessPlan | None:
    if label_set.name != "ADE20K":
        return None
    return _padded(as_mmsegmentation(_normalized(plan), *ADE20K), _patch(config))


def _windows(config: JsonMapping, label_set: LabelSet | None, task: Task) -> SlidingWindow | None:
    return WINDOWS if label_set is not None and label_set.name == "ADE20K" else None


def _sized(config: JsonMapping, plan: PreprocessPlan, size: Size) -> PreprocessPlan:
    return _padded(with_size(plan, size), _patch(config))


def _size_problem(config: JsonMapping, plan: PreprocessPlan) -> str | None:
    return edge_problem(plan, multiple=_patch(config), least=_patch(config))


def _network() -> Network:
    from m2f_batch.models.pixel_families.transformers_model import load_beit, predict_beit, predict_published_beit

    return Network(load_beit, predict_beit, predict_published=predict_published_beit)


FAMILY = Family(
    name="BEiT",
    model_type="beit",
    class_name="BeitForSemanticSegmentation",
    head=DECODE_HEAD,
    network=_network,
    pixels=PixelRules(own=_pixels, paper=_paper, sized=_sized, size_problem=_size_problem, windows=_windows),
    tasks=SEMANTIC,
    config_problems=_config_problems,
    published=Published(
        licenses={"microsoft/beit-": "apache-2.0"},
        labels={PUBLISHED: "ADE20K"},
        otherwise=AsPublished(
            are_these=_is_published,
            pixels=_normalized,
            note="these are the weights of BEiT's authors: they are run and normalized as unilm does, not as "
            "transformers",
            label_set="ADE20K",
            unsure="it is run as transformers runs it, from features two blocks before those of BEiT's authors; if "
            "these are their weights, give the hub id (microsoft/beit-base-finetuned-ade-640-640)",
        ),
    ),
)
