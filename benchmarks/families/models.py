"""Saves the models that are measured, and loads them as ``transformers`` does.

Weights are random, since none may be downloaded. The head of classes is fitted so that a few queries are things in any
photograph, or pixels of like brightness a class: plain random weights find nothing, or a segment for every pixel.
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar

from benchmarks.families.cases import STUFF_FROM, Case
from benchmarks.lib.photos import photographs
from m2f_batch.models.oneformer.transformers_model import task_ids
from m2f_batch.vision.decode.image import decode

CALIBRATION, KEPT = 3, 12  # photographs, and how many queries or classes there are in each
TEXT_LENGTH = 77  # tokens of OneFormer's task


def save(case: Case, directory: Path, *, quick: bool) -> None:
    """Save a model of random weights with its processor."""
    disable_progress_bar()
    torch.manual_seed(2)
    config = (case.tiny if quick else case.config)()
    config.id2label = {i: f"class {i}" for i in range(case.classes)}
    config.label2id = {name: i for i, name in config.id2label.items()}
    if case.classes in STUFF_FROM and "panoptic" in case.post:
        config.label_ids_to_fuse = list(range(STUFF_FROM[case.classes], case.classes))
    settings = case.tiny_settings if quick else case.settings
    getattr(transformers, case.processor)(**settings).save_pretrained(directory)
    if case.row == "oneformer":
        _write_class_info(case, directory)
    model = getattr(transformers, case.model)(config).eval()
    if hasattr(model, "attn_mask_probs"):
        model.attn_mask_probs.zero_()  # as deployed weights have it
    _fit(case, model, processor_of(case, directory))
    model.save_pretrained(directory)


def processor_of(case: Case, directory: Path) -> Any:
    """The image processor as ``transformers`` loads it."""
    if case.row == "oneformer":  # AutoImageProcessor would fetch the names of classes from the hub
        settings = json.loads((directory / "preprocessor_config.json").read_text())
        kept = {key: settings[key] for key in ("size",)}
        return transformers.OneFormerImageProcessor(**kept, repo_path=str(directory), class_info_file="classes.json")
    return transformers.AutoImageProcessor.from_pretrained(directory, local_files_only=True)


def _write_class_info(case: Case, directory: Path) -> None:
    stuff = STUFF_FROM[case.classes]
    info = {str(i): {"name": f"class {i}", "isthing": int(i < stuff)} for i in range(case.classes)}
    (directory / "classes.json").write_text(json.dumps(info))


def inputs_of(case: Case, processor: Any, images: Any) -> dict[str, Tensor]:
    """What the model takes of images, as the documentation of ``transformers`` has it."""
    found = dict(processor(images=images, return_tensors="pt"))
    kept = {key: found[key] for key in ("pixel_values", "pixel_mask") if key in found}
    if "patch_offsets" in found:
        kept["patch_offsets"] = found["patch_offsets"]
    if case.row == "oneformer":
        kept["task_inputs"] = task_ids(case.task, TEXT_LENGTH).repeat(len(kept["pixel_values"]), 1)
    return kept


@torch.no_grad()
def _fit(case: Case, model: nn.Module, processor: Any) -> None:
    """Fit the head of classes by least squares."""
    head: Any = model.get_submodule(case.head)
    seen: list[Tensor] = []
    hook = head.register_forward_hook(lambda module, given, gave: seen.append(given[0]))
    states, wanted = [], []
    for data in photographs(CALIBRATION):
        inputs = inputs_of(case, processor, Image.fromarray(decode(data)))
        model(**inputs)
        found = seen[-1]
        seen.clear()
        if isinstance(head, nn.Conv2d):
            states.append(found[0].flatten(1).T)
            wanted.append(_by_brightness(inputs["pixel_values"], found.shape[-2:], case.classes))
        else:
            states.append(found.reshape(-1, found.shape[-1]))
            wanted.append(_by_query(len(states[-1]), head.out_features, case.classes))
    hook.remove()
    _solve(head, torch.cat(states).double(), torch.cat(wanted).double())


def _by_query(queries: int, columns: int, classes: int) -> Tensor:
    """The first queries are things of classes of their own, the others no object."""
    has_none = columns > classes
    wanted = torch.zeros(queries, columns) if has_none else torch.full((queries, columns), -6.0)
    if has_none:
        wanted[:, -1] = 8.0
    for query in range(min(KEPT, queries)):
        wanted[query, query % min(classes, 80)] = 8.0
        if has_none:
            wanted[query, -1] = 0.0
    return wanted


def _by_brightness(pixel_values: Tensor, size: Any, classes: int) -> Tensor:
    """A class for each twelfth of the brightness, [pixels, C]."""
    gray = nn.functional.interpolate(pixel_values[:1].mean(1, keepdim=True), size=size, mode="area").flatten()
    levels = torch.quantile(gray, torch.linspace(0, 1, KEPT + 1)[1:-1])
    return 8.0 * nn.functional.one_hot(torch.bucketize(gray, levels) % classes, classes)


def _solve(head: Any, states: Tensor, wanted: Tensor) -> None:
    inputs = torch.cat([states, torch.ones(len(states), 1, dtype=states.dtype)], 1)
    normal = inputs.T @ inputs
    normal += 1e-6 * normal.diagonal().mean() * torch.eye(len(normal), dtype=states.dtype)
    solution = torch.linalg.solve(normal, inputs.T @ wanted).float()
    head.weight.copy_(solution[:-1].T.reshape(head.weight.shape))
    head.bias.copy_(solution[-1])
