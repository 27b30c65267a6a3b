"""EoMT (https://arxiv.org/abs/2503.19108) is a plain DINOv2, whose last blocks see queries among the patches."""

from m2f_batch.models.eomt.family import eomt_family
from m2f_batch.models.family import Published

FAMILY = eomt_family(
    "EoMT",
    "eomt",
    "EomtForUniversalSegmentation",
    Published(
        licenses={"tue-mps/coco_": "mit", "tue-mps/ade20k_": "mit", "tue-mps/cityscapes_": "mit"},
        labels={
            "tue-mps/coco_panoptic_eomt_*": "COCO panoptic",
            "tue-mps/coco_instance_eomt_*": "COCO instance",
            "tue-mps/ade20k_*_eomt_*": "ADE20K",
            "tue-mps/cityscapes_semantic_eomt_*": "Cityscapes",
        },
    ),
)
