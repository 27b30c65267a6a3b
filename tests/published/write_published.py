"""Write config.json and preprocessor_config.json of published checkpoints, as transformers 4.26.1 wrote them.

    python3 -m venv old && old/bin/pip install transformers==4.26.1 torch==2.13.0 torchvision "numpy<2"
    old/bin/python tests/published/write_published.py tests/published

Rebuilt from public facts, not copied: what transformers' own conversion script of that version makes of the configs of
the original repository. Weights and whole files are nowhere here.

- Swin-T, S, L start from the configs of microsoft/swin-*, whose 1000 ImageNet labels stay in backbone_config (the 60 KB
  that published files hold); Swin-B is built anew. Drop path 0.3, 200 queries for Swin-L but in semantic models.
- ``enforce_input_proj``, ``num_labels``, ``_max_size`` and ``size_divisibility`` are keys that nobody reads.
- Labels: COCO's and Cityscapes' names; of ADE20K and Mapillary Vistas those that identify the set, the others numbered.
- The R50 and R101 are those that others have converted: ResNet backbones in today's form of transformers 4.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import Mask2FormerConfig, Mask2FormerImageProcessor, ResNetConfig, SwinConfig

NAMES = json.loads(Path(__file__).with_name("names.json").read_text())
THINGS, STUFF, STREET = (NAMES[key].split(", ") for key in ("things", "stuff", "street"))


def numbered(count, **known):
    """Names of a label set of which only some decide anything here."""
    return [known.get(f"_{i}", f"label {i}") for i in range(count)]


LABELS = {
    ("coco", "panoptic"): THINGS + STUFF,
    ("coco", "instance"): THINGS,
    ("cityscapes", "semantic"): STREET,
    ("cityscapes", "panoptic"): STREET,
    ("cityscapes", "instance"): STREET[11:],
    ("ade", "semantic"): numbered(150, _0="wall", _7="bed ", _149="flag"),
    ("ade", "panoptic"): numbered(150, _0="wall", _7="bed ", _149="flag"),
    ("mapillary-vistas", "semantic"): numbered(65, _0="Bird", _64="Ego Vehicle"),
    ("mapillary-vistas", "panoptic"): numbered(65, _0="Bird", _64="Ego Vehicle"),
}


def swin(size, inherited):
    """The backbone of one size; ``inherited``: with the labels of what it was pretrained on, as all but Swin-B have."""
    stages = {"out_features": ["stage1", "stage2", "stage3", "stage4"], "drop_path_rate": 0.3}
    imagenet = {i: f"class {i}" for i in range(1000)}
    whole = {"id2label": imagenet, "label2id": {name: i for i, name in imagenet.items()}} if inherited else {}
    hub = {"architectures": ["SwinForImageClassification"], "torch_dtype": "float32", **whole}
    if size in ("tiny", "small"):
        depths = (2, 2, 6, 2) if size == "tiny" else (2, 2, 18, 2)
        return SwinConfig(image_size=224, depths=list(depths), **stages, **hub)
    if size == "base":
        heads = {"num_heads": (4, 8, 16, 32), "depths": (2, 2, 18, 2)}
        return SwinConfig(embed_dim=128, window_size=12, **heads, **stages)
    heads = {"num_heads": [6, 12, 24, 48], "depths": [2, 2, 18, 2]}
    return SwinConfig(embed_dim=192, window_size=12, image_size=384, **heads, **stages, **hub)


def resnet(depth):
    """R50 or R101."""
    depths = [3, 4, 6 if depth == "50" else 23, 3]
    return ResNetConfig(depths=depths, out_features=["stage1", "stage2", "stage3", "stage4"])


def write(folder, name):
    """The two files of one checkpoint."""
    family, size, *rest = name.replace("base-IN21k", "base").split("-")
    dataset, task = "-".join(rest[:-1]), rest[-1]
    labels = dict(enumerate(LABELS[dataset, task]))
    is_first = name in ("swin-tiny-coco-instance", "swin-large-coco-panoptic")  # one file of 60 KB a size is enough
    backbone = swin(size, is_first) if family == "swin" else resnet(size)
    config = Mask2FormerConfig(
        backbone_config=backbone,
        num_queries=200 if size == "large" and task != "semantic" else 100,
        ignore_value=65 if dataset == "mapillary-vistas" else 255,
        enforce_input_proj=False,
        id2label=labels,
        label2id={label: i for i, label in labels.items()},
        architectures=["Mask2FormerForUniversalSegmentation"],
        torch_dtype="float32",
    )
    mean, std = torch.tensor([123.675, 116.280, 103.530]) / 255, torch.tensor([58.395, 57.120, 57.375]) / 255
    processor = Mask2FormerImageProcessor(
        image_mean=mean.tolist(), image_std=std.tolist(), size=800, max_size=1333, num_labels=len(labels)
    )
    processor.ignore_index = config.ignore_value
    processor.size = {"height": 384, "width": 384}
    place = folder / f"mask2former-{name}"
    config.save_pretrained(place)
    processor.save_pretrained(place)
    for file in place.glob("*.json"):  # no blanks: half the size
        file.write_text(json.dumps(json.loads(file.read_text()), separators=(",", ":")) + "\n")
    print(name, sum(file.stat().st_size for file in place.iterdir()))


if __name__ == "__main__":
    for each in NAMES["published"]:
        write(Path(sys.argv[1]), each)
