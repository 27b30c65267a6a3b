"""Says why an architecture is not supported, for the message to who gives one."""

from collections.abc import Mapping
from typing import Any

OLD = "newer models of the supported ones label better"
SQUARE = "it sees squares of one size only"
PROMPTED = "it wants points, boxes or words for each image, and has no labels of its own"
CLASSES_OF_IMAGES = "gives no class to a pixel or a mask"

# by model_type; source: transformers 5.23, measured on tiny models
REASONS: Mapping[str, str] = {
    "dpt": f"{SQUARE}, and {OLD}",
    "data2vec-vision": f"{SQUARE}, and BEiT is the same architecture with better weights",
    "detr": f"its masks are those of 2020, and {OLD}",
    "conditional_detr": f"its masks are those of DETR, and {OLD}",
    "deformable_detr": "it finds boxes, not masks",
    "mobilenet_v2": f"MobileViT replaces it, and {OLD}",
    "mobilenet_v1": "it gives one class to an image",
    "clipseg": PROMPTED,
    "sam": PROMPTED,
    "sam_hq": PROMPTED,
    "sam2": PROMPTED,
    "sam3": PROMPTED,
    "rt_detr": "it finds boxes, not masks",
    "rt_detr_v2": "it finds boxes, not masks",
    "yolos": "it finds boxes, not masks",
}


def why_not(config: Mapping[str, Any]) -> str:
    """Return why the architecture of a config.json is not supported, as far as a reason is known."""
    kind, classes = config.get("model_type"), config.get("architectures")
    if isinstance(kind, str) and kind in REASONS:
        return f"{kind}: {REASONS[kind]}"
    name = classes[0] if isinstance(classes, list) and classes and isinstance(classes[0], str) else ""
    return f"{name[:100]} {CLASSES_OF_IMAGES}" if name and "Segmentation" not in name else ""
