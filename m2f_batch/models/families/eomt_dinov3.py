"""EoMT on DINOv3 has the same rules, rotary positions, and a license that comes with the backbone."""

from collections.abc import Iterator

from m2f_batch.models.eomt import rules
from m2f_batch.models.eomt.family import eomt_family
from m2f_batch.models.family import JsonMapping, Published


def _config_problems(config: JsonMapping) -> Iterator[str]:
    yield from rules.config_problems(config)
    rope = config.get("rope_parameters")
    if rope is not None and not isinstance(rope, dict):
        yield f"rope_parameters must be an object, not {rope!r}"
    elif rope and rope.get("rope_type", "default") != "default":
        yield f"rope_type {rope['rope_type']!r} is not known to this family; allowed: default"


FAMILY = eomt_family(
    "EoMT-DINOv3",
    "eomt_dinov3",
    "EomtDinov3ForUniversalSegmentation",
    Published(
        licenses={"tue-mps/eomt-dinov3-": "mit"},
        # https://ai.meta.com/resources/models-and-libraries/dinov3-license, also where a card says MIT alone
        base_license="dinov3-license",
        labels={
            "tue-mps/eomt-dinov3-coco-panoptic-*": "COCO panoptic",
            "tue-mps/eomt-dinov3-coco-instance-*": "COCO instance",
            "tue-mps/eomt-dinov3-ade-semantic-*": "ADE20K",
        },
        # the authors' own files hold what is to be added to the gated weights of DINOv3
        deltas={
            r"(coco|ade)(?:20k)?_(panoptic|instance|semantic)_eomt_(\w+)_(\d+)_dinov3": (
                r"tue-mps/eomt-dinov3-\1-\2-\3-\4"
            )
        },
    ),
    _config_problems,
)
