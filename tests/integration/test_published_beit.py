"""Weights of BEiT's authors run with the layers and the normalization of unilm, and all others as transformers does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny import beit
from torch import Tensor
from transformers import BeitForSemanticSegmentation

from m2f_batch.config.segment import ModelConfig, PostprocessConfig, PreprocessConfig
from m2f_batch.flow.unit.actor import ActorSettings, check_processor, load_segmenter
from m2f_batch.models.checkpoint import Checkpoint, read_checkpoint
from m2f_batch.models.label_sets import names_of
from m2f_batch.models.loading import load_model, load_original
from m2f_batch.models.preprocess_plan import IMAGENET_MEAN, IMAGENET_STD
from m2f_batch.models.source import ModelSource
from m2f_batch.vision.label_settings import Labeling, fingerprint_of, settle
from m2f_batch.vision.segmenter import Segmenter

HUB_ID = "microsoft/beit-base-finetuned-ade-640-640"
INDICES = [0, 1, 2, 3]  # as unilm counts its four blocks
ADE20K = {str(i): name for i, name in names_of("ADE20K").items()}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BEiT with a config.json as that on the hub is."""
    directory = beit.build(tmp_path_factory.mktemp("beit"))
    config = json.loads((directory / "config.json").read_text())
    for key in ("out_indices", "out_features", "stage_names"):
        config.pop(key, None)
    (directory / "config.json").write_text(json.dumps({**config, "segmentation_indices": INDICES}))
    return directory


def settled(checkpoint: Checkpoint) -> Labeling:
    return settle(checkpoint, ModelConfig(uri="m"), PreprocessConfig(), PostprocessConfig())


def as_unilm(model: Any, values: Tensor) -> Tensor:
    """What ``forward_features`` of unilm's backbone/beit.py gives the head: what block i gave, i from 0."""
    seen: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda layer, given, gave: seen.append(gave)) for layer in model.beit.layers]
    model(pixel_values=values)
    for hook in hooks:
        hook.remove()
    height, width = values.shape[2] // 8, values.shape[3] // 8
    maps = tuple(seen[i][:, 1:].permute(0, 2, 1).reshape(len(values), -1, height, width) for i in INDICES)
    logits: Tensor = model.decode_head(model.fpn(maps))
    return logits


@torch.inference_mode()
def test_the_head_sees_the_states_of_unilm(published: Path) -> None:
    values = torch.randn(2, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    model = load_original(published, as_published=True)
    assert isinstance(model.model, BeitForSemanticSegmentation)
    expected = as_unilm(model.model, values)
    torch.testing.assert_close(model(values).tensors[0], expected, rtol=0, atol=1e-4)  # of logits up to 10
    theirs = load_model(published, torch.device("cpu"))(values).tensors[0]
    torch.testing.assert_close(theirs, model.model(pixel_values=values).logits, rtol=0, atol=1e-4)
    assert (theirs - expected).abs().max() > 0.1


@torch.inference_mode()
def test_a_replica_and_the_segmenter_run_them_so(published: Path) -> None:
    labeling = settled(read_checkpoint(published, "m"))
    settings = ActorSettings(ModelSource(str(published), "directory"), labeling, "cpu", 1, 1)
    check_processor(settings)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    values = ((torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std)[None]
    model = load_original(published).model
    wanted = torch.nn.functional.interpolate(as_unilm(model, values), size=(64, 64), mode="bilinear")[0].argmax(0)
    areas = dict(zip(beit.LABELS.values(), torch.bincount(wanted.flatten(), minlength=5).tolist(), strict=True))
    segmenter = load_segmenter(settings)
    assert isinstance(segmenter, Segmenter)
    with pytest.warns(UserWarning, match="as unilm does"):
        here = Segmenter.from_pretrained(str(published), threads=1)
    for each in (segmenter, here):
        (found,) = each([image])
        assert sum(abs(segment.area - areas[segment.category]) for segment in found) <= 4
        assert {segment.category for segment in found} == {label for label, area in areas.items() if area}


def checkpoint_of(name: str, **config: Any) -> Checkpoint:
    return Checkpoint(name, Path(), {"model_type": "beit", "id2label": ADE20K, **config}, {})


@pytest.mark.parametrize(
    ("checkpoint", "is_published"),
    [
        (checkpoint_of(HUB_ID, out_indices=[3, 5, 7, 11]), True),
        (checkpoint_of(f"Microsoft/{HUB_ID.partition('/')[2]}@main", out_indices=[3, 5, 7, 11]), True),
        (checkpoint_of("/models/x", segmentation_indices=[3, 5, 7, 11]), True),
        (checkpoint_of("/models/x", segmentation_indices=[7, 11, 15, 23], num_hidden_layers=24), True),
        (checkpoint_of("/models/x", out_indices=[3, 5, 7, 11]), False),
        (checkpoint_of("/models/x", out_indices=[3, 5, 7, 11], _name_or_path=HUB_ID), False),
        (checkpoint_of("/models/x", segmentation_indices=[3, 5, 7, 11], out_features=["stage3"]), False),
        (checkpoint_of(HUB_ID, out_indices=[3, 5, 7, 12]), False),
    ],
)
def test_which_weights_are_those_of_the_authors(checkpoint: Checkpoint, is_published: bool) -> None:
    labeling = settled(checkpoint)
    notes = " ".join(labeling.notes)
    facts = labeling.facts("f", 1, 1)
    if is_published:
        assert (labeling.preprocess.mean, labeling.preprocess.std) == (IMAGENET_MEAN, IMAGENET_STD)
        assert "run and normalized as unilm does" in notes and facts["as_published"] is True
    else:
        assert (labeling.preprocess.mean, labeling.preprocess.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        assert "if these are their weights, give the hub id" in notes and "as_published" not in facts
    assert labeling.as_published is is_published


def test_it_is_in_the_fingerprint(published: Path) -> None:
    labeling = settled(read_checkpoint(published, "m"))
    facts = labeling.facts("f", 1, 1)
    assert fingerprint_of(facts) != fingerprint_of({name: facts[name] for name in facts if name != "as_published"})
