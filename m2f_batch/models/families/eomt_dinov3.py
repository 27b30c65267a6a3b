"""EoMT on DINOv3 has the same rules, rotary positions, and a license that comes with the backbone."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from m2f_batch.config.segment import Task
from m2f_batch.models.eomt import rules
from m2f_batch.models.family import Family, JsonMapping
from m2f_batch.models.mask_families.rules import tasks_as_trained

if TYPE_CHECKING:
    from torch import Tensor, nn

    from m2f_batch.models.predictions import Prediction


def _config_problems(config: JsonMapping) -> Iterator[str]:
    yield from rules.config_problems(config)
    rope = config.get("rope_parameters")
    if rope is not None and not isinstance(rope, dict):
        yield f"rope_parameters must be an object, not {rope!r}"
    elif rope and rope.get("rope_type", "default") != "default":
        yield f"rope_type {rope['rope_type']!r} is not known to this family; allowed: default"


def _load(directory: Path, config: JsonMapping, task: Task | None) -> "nn.Module":
    from m2f_batch.models.eomt.transformers_model import load

    return load(directory, config)


def _predict(model: "nn.Module", pixel_values: "Tensor") -> "Prediction":
    from m2f_batch.models.eomt.transformers_model import predict

    return predict(model, pixel_values)


FAMILY = Family(
    name="EoMT-DINOv3",
    model_type="eomt_dinov3",
    class_name="EomtDinov3ForUniversalSegmentation",
    class_head="class_predictor.weight",
    no_object=True,
    tasks=tasks_as_trained,
    config_problems=_config_problems,
    weight_problems=rules.weight_problems,
    value_problems=rules.value_problems,
    pixels=rules.pixels,
    paper=rules.paper,
    sized=rules.sized,
    windows=rules.windows,
    postprocess=rules.postprocess,
    load=_load,
    predict=_predict,
    licenses={"tue-mps/eomt-dinov3-": "mit"},
    # https://ai.meta.com/resources/models-and-libraries/dinov3-license, also where a card says MIT alone
    base_license="dinov3-license",
    published={
        "tue-mps/eomt-dinov3-coco-panoptic-*": "COCO panoptic",
        "tue-mps/eomt-dinov3-coco-instance-*": "COCO instance",
        "tue-mps/eomt-dinov3-ade-semantic-*": "ADE20K",
    },
    # the authors' own files hold what is to be added to the gated weights of DINOv3
    deltas={
        r"(coco|ade)(?:20k)?_(panoptic|instance|semantic)_eomt_(\w+)_(\d+)_dinov3": r"tue-mps/eomt-dinov3-\1-\2-\3-\4"
    },
)
