"""OneFormer (https://arxiv.org/abs/2211.06220) is one model for all three tasks, which is told the task.

Source of the rules: SHI-Labs/OneFormer, ``oneformer/oneformer_model.py`` and its configs.
"""

from collections.abc import Iterator
from dataclasses import replace

from m2f_batch.config.segment import Size, Task
from m2f_batch.models.backbone_configs import backbone_problems, natten_problems
from m2f_batch.models.family import ClassHead, Family, JsonMapping, Network, PixelRules, Published, TaskRules
from m2f_batch.models.label_sets import LabelSet
from m2f_batch.models.mask_families.rules import POSTPROCESS, as_detectron2, is_small, weight_problems
from m2f_batch.models.preprocess_plan import PreprocessPlan, with_size
from m2f_batch.models.processor import DIVISOR, plan_from_processor, processors_of

PROCESSORS = processors_of("OneFormer")
QUERIES = 150
ADE20K_PANOPTIC = {"score_threshold": 0.5}


def _tasks(config: JsonMapping, trained: Task | None, label_set: LabelSet | None) -> tuple[Task, ...]:
    return ("panoptic", "instance", "semantic")


def _pixels(config: JsonMapping, processor: JsonMapping, task: Task) -> PreprocessPlan:
    return replace(plan_from_processor(processor, PROCESSORS), divisor=0)  # the processor makes up to no multiples


def _sized(config: JsonMapping, plan: PreprocessPlan, size: Size) -> PreprocessPlan:
    return with_size(replace(plan, divisor=DIVISOR), size)


def _paper(config: JsonMapping, plan: PreprocessPlan, label_set: LabelSet, task: Task) -> PreprocessPlan | None:
    kind = (config.get("backbone_config") or {}).get("model_type", "swin")
    small = kind == "resnet" or (kind == "swin" and is_small(config))
    return as_detectron2(replace(plan, divisor=DIVISOR), label_set, small_ade20k=small)


def _settings(config: JsonMapping, trained: Task | None, label_set: LabelSet | None, task: Task) -> JsonMapping:
    if task == "instance":
        return {**POSTPROCESS[task], "top_k": config.get("num_queries") or QUERIES}
    if task == "semantic":
        return {"masks_first": True}
    is_ade = label_set is not None and label_set.name == "ADE20K"
    return {**POSTPROCESS[task], **(ADE20K_PANOPTIC if is_ade else {})}


def _config_problems(config: JsonMapping) -> Iterator[str]:
    yield from backbone_problems(config)
    yield from natten_problems(config)
    queries = config.get("num_queries")
    if queries is not None and not (type(queries) is int and queries > 0):
        yield f"num_queries must be a number of queries, not {queries!r}"


def _network() -> Network:
    from m2f_batch.models.oneformer.fast import FORWARD
    from m2f_batch.models.oneformer.transformers_model import load, predict

    return Network(load, predict, FORWARD)


FAMILY = Family(
    name="OneFormer",
    model_type="oneformer",
    class_name="OneFormerForUniversalSegmentation",
    head=ClassHead("model.transformer_module.decoder.class_embed.weight", no_object=True),
    network=_network,
    pixels=PixelRules(own=_pixels, paper=_paper, sized=_sized),
    tasks=TaskRules(_tasks, _settings),
    config_problems=_config_problems,
    weight_problems=weight_problems,
    # transformers' processor asks the hub for the names of classes, of which it makes the texts of a training
    processor_arguments={"class_info_file": None},
    published=Published(
        licenses={"shi-labs/oneformer_": "mit"},
        labels={
            "shi-labs/oneformer_coco_*": "COCO panoptic",
            "shi-labs/oneformer_ade20k_*": "ADE20K",
            "shi-labs/oneformer_cityscapes_*": "Cityscapes",
        },
    ),
)
