"""Can it learn at all: a small random model on 8 real photographs, until it knows them by heart.

    python -m benchmarks.training.overfit ANNOTATIONS.json IMAGES DIR [--steps 1500]

Takes the first 8 images of a COCO JSON whose objects all exceed 64 x 64 pixels (no crowds), trains on them at 256 x 256
without augmentation, labels them with ``segment``'s own code and prints AP; DIR gets the tuned model with its curves.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import load_config

IMAGES, EDGE, MOST_OBJECTS = 8, 64, 8
MODEL = {
    "num_queries": 30,
    "hidden_dim": 96,
    "feature_size": 96,
    "mask_feature_size": 96,
    "encoder_feedforward_dim": 256,
    "dim_feedforward": 256,
    "encoder_layers": 2,
    "decoder_layers": 4,
    "num_attention_heads": 4,
    "train_num_points": 2048,
    "backbone_config": {
        "model_type": "resnet",
        "embedding_size": 32,
        "hidden_sizes": [32, 64, 128, 256],
        "depths": [1, 1, 2, 1],
        "layer_type": "basic",
    },
}


def chosen(tree: dict[str, Any]) -> dict[str, Any]:
    """The part of a COCO JSON that is learned."""
    by_image = defaultdict(list)
    for annotation in tree["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    images = [
        image
        for image in tree["images"]
        if 2 <= len(by_image[image["id"]]) <= MOST_OBJECTS
        and all(min(a["bbox"][2:]) > EDGE and not a["iscrowd"] for a in by_image[image["id"]])
    ][:IMAGES]
    annotations = [annotation for image in images for annotation in by_image[image["id"]]]
    used = {annotation["category_id"] for annotation in annotations}
    categories = [category for category in tree["categories"] if category["id"] in used]
    return {"images": images, "annotations": annotations, "categories": categories}


def main() -> int:
    """Choose, train, and print the metrics of the last validation."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    tree = chosen(json.loads(options.annotations.read_text()))
    part = options.folder / "eight.json"
    part.write_text(json.dumps(tree))
    print(f"{len(tree['images'])} images, {len(tree['annotations'])} objects, {len(tree['categories'])} categories")
    settings = {
        "data": {"format": "coco", "train": str(part), "train_images": str(options.images)}
        | {"val": str(part), "val_images": str(options.images)},
        "model": {"config": MODEL, "task": "instance"},
        "augment": {"crop_size": 256, "scale": [1.0, 1.0], "flip": 0.0},
        "train": {"steps": options.steps, "batch_size": IMAGES, "learning_rate": 1e-3, "clip_norm": 0.1}
        | {"schedule": "cosine", "warmup_steps": 50, "evaluate_every": options.steps // 5, "ema": 0.99},
        "output": {"uri": str(options.folder / "tuned")},
    }
    file = options.folder / "overfit.yaml"
    file.write_text(json.dumps(settings, indent=2))
    from m2f_batch.messages.terminal import say
    from m2f_batch.train.command import finetune

    outcome = finetune(load_config(FinetuneConfig, file=str(file), overrides=[], flags={}), say=say)
    print((options.folder / "tuned" / "README.md").read_text().partition("## Metrics")[2])
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
