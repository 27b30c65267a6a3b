"""What the plan says of windows, for models that have a published test and for those that have none."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from m2f_batch.config.segment import ModelConfig, PostprocessConfig, PreprocessConfig
from m2f_batch.flow.attempt.plan_text import _window_lines
from m2f_batch.flow.attempt.run_info import Job
from m2f_batch.models.checkpoint import Checkpoint
from m2f_batch.models.label_sets import names_of
from m2f_batch.vision.label_settings import settle

CONVNEXT = {"backbone_config": {"model_type": "convnext", "hidden_sizes": [96, 192, 384, 768]}}
WHOLE, KEY = "the whole image at once", "(windows: preprocess.window)"


@pytest.mark.parametrize(
    ("kind", "config", "label_set", "said"),
    [
        ("segformer", {}, "ADE20K", f"{WHOLE}, as in the published test of such a model on ADE20K {KEY}"),
        ("segformer", {}, "Pascal VOC", f"{WHOLE} {KEY}"),
        ("segformer", {}, None, f"{WHOLE} {KEY}"),
        ("upernet", {"backbone_config": {"model_type": "focalnet"}}, "ADE20K", f"{WHOLE} {KEY}"),
        ("upernet", CONVNEXT, "ADE20K", f"{WHOLE}; the published test has windows of 512 with stride 341"),
    ],
)
def test_what_the_plan_says_of_windows(kind: str, config: dict[str, Any], label_set: str | None, said: str) -> None:
    labels = {0: "a", 1: "b"} if label_set is None else names_of(label_set)
    tree = {"model_type": kind, "id2label": {str(i): name for i, name in labels.items()}, **config}
    checkpoint, preprocess = Checkpoint("m", Path(), tree, {}), PreprocessConfig()
    labeling = settle(checkpoint, ModelConfig(uri="m"), preprocess, PostprocessConfig())
    job = SimpleNamespace(checkpoint=checkpoint, labeling=labeling, config=SimpleNamespace(preprocess=preprocess))
    (line,) = _window_lines(cast(Job, job))
    assert line.strip().startswith(said)
