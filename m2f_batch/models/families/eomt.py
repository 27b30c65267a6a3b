"""EoMT (https://arxiv.org/abs/2503.19108) is a plain DINOv2, whose last blocks see queries among the patches."""

from pathlib import Path
from typing import TYPE_CHECKING

from m2f_batch.config.segment import Task
from m2f_batch.models.eomt import rules
from m2f_batch.models.family import Family, JsonMapping
from m2f_batch.models.mask_families.rules import tasks_as_trained

if TYPE_CHECKING:
    from torch import Tensor, nn

    from m2f_batch.models.predictions import Prediction


def _load(directory: Path, config: JsonMapping, task: Task | None) -> "nn.Module":
    from m2f_batch.models.eomt.transformers_model import load

    return load(directory, config)


def _predict(model: "nn.Module", pixel_values: "Tensor") -> "Prediction":
    from m2f_batch.models.eomt.transformers_model import predict

    return predict(model, pixel_values)


FAMILY = Family(
    name="EoMT",
    model_type="eomt",
    class_name="EomtForUniversalSegmentation",
    class_head="class_predictor.weight",
    no_object=True,
    tasks=tasks_as_trained,
    config_problems=rules.config_problems,
    weight_problems=rules.weight_problems,
    value_problems=rules.value_problems,
    pixels=rules.pixels,
    paper=rules.paper,
    sized=rules.sized,
    windows=rules.windows,
    postprocess=rules.postprocess,
    load=_load,
    predict=_predict,
    licenses={"tue-mps/coco_": "mit", "tue-mps/ade20k_": "mit", "tue-mps/cityscapes_": "mit"},
    published={
        "tue-mps/coco_panoptic_eomt_*": "COCO panoptic",
        "tue-mps/coco_instance_eomt_*": "COCO instance",
        "tue-mps/ade20k_*_eomt_*": "ADE20K",
        "tue-mps/cityscapes_semantic_eomt_*": "Cityscapes",
    },
)
