"""A family of models that is one file: a 1x1 convolution that gives each pixel one of two classes, dark and bright."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

TOY = '''
"""Toy models see whether a pixel is dark or bright."""

from m2f_batch.models.family import ClassHead, Family, Network, PixelRules, TaskRules
from m2f_batch.models.processor import plan_from_processor


def _load(directory, config, task):
    import torch
    from safetensors.torch import load_file

    model = torch.nn.Conv2d(3, len(config["id2label"]), 1)
    model.load_state_dict(load_file(directory / "model.safetensors"))
    return model


def _predict(model, pixel_values):
    from m2f_batch.models.predictions import PixelLogits

    return PixelLogits(model(pixel_values))


FAMILY = Family(
    name="Toy",
    model_type="toy",
    class_name="ToyForSemanticSegmentation",
    head=ClassHead("weight"),
    network=lambda: Network(_load, _predict),
    pixels=PixelRules(lambda config, processor, task: plan_from_processor(processor, {"ToyImageProcessor"})),
    tasks=TaskRules(lambda config, trained, label_set: ("semantic",)),
)
'''


def save_toy_model(directory: Path) -> Path:
    """A model whose label 1 is a pixel that is brighter than a middle gray."""
    directory.mkdir(parents=True)
    config = {"model_type": "toy", "id2label": {"0": "dark", "1": "bright"}}
    (directory / "config.json").write_text(json.dumps(config))
    processor = {"image_processor_type": "ToyImageProcessor", "do_normalize": False, "size": 64, "size_divisor": 0}
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    weight = np.array([[-10.0] * 3, [10.0] * 3], np.float32)[:, :, None, None]
    save_file({"weight": weight, "bias": np.array([15.0, -15.0], np.float32)}, directory / "model.safetensors")
    return directory
