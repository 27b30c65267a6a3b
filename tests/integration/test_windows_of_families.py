"""Semantic models of every family in windows, from a config to segments, against the plain definition.

The definition is the dense mean of the logits of each window, which ``test_every_family`` holds to transformers'.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from support import reference
from support.windows import windowed

from m2f_batch.config.segment import ModelConfig, PostprocessConfig, PreprocessConfig
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.errors import UsageError
from m2f_batch.models.checkpoint import Checkpoint, read_checkpoint
from m2f_batch.vision.cuts.windows import Windows
from m2f_batch.vision.label_settings import settle
from m2f_batch.vision.segmenter import Segmenter

TINY = Path(__file__).parents[1] / "support" / "tiny"
NAMES = sorted(path.stem for path in TINY.glob("*.py") if path.stem != "weights")
SIZES = [(96, 230), (150, 100)]
OURS = {"size": {"shortest_edge": 96, "longest_edge": 400}, "window": {"size": 64, "stride": 48}}


@torch.inference_mode()
@pytest.mark.parametrize("name", NAMES)
def test_windows_of_a_family_are_averaged_by_the_definition(name: str, tmp_path: Path) -> None:
    module = import_module(f"support.tiny.{name}")
    with torch.random.fork_rng():
        module.build(tmp_path / "model")
    checkpoint = read_checkpoint(tmp_path / "model", name)
    if "semantic" not in checkpoint.family.tasks.able(checkpoint.config, checkpoint.trained_task, checkpoint.label_set):
        pytest.skip("has no semantic task")
    model = ModelConfig(uri="m", task="semantic")
    if checkpoint.published_postprocess("semantic"):
        with pytest.raises(UsageError, match=r"^preprocess.window: .* is not how .* models see an image"):
            settle(checkpoint, model, PreprocessConfig.model_validate({"window": OURS["window"]}), PostprocessConfig())
        return
    windows = checkpoint.family.pixels.windows
    always = windows is not None and windows(checkpoint.config, None, "semantic")
    preprocess = {} if always else OURS
    plan, cut = _settled(checkpoint, model, preprocess)
    segmenter = Segmenter.from_checkpoint(
        checkpoint,
        model,
        device="cpu",
        postprocess={},
        size=preprocess.get("size", "checkpoint"),
        window=preprocess.get("window"),
        threads=1,
    )
    for seed, (height, width) in enumerate(SIZES):
        image = draw_scene(seed).image[:height, :width]
        assert len(cut.views(plan, (height, width))) > 1
        (segments,) = segmenter([image])
        reference.assert_same(segments, windowed(lambda values: segmenter.model(values).tensors, plan, image, cut))


def _settled(checkpoint: Checkpoint, model: ModelConfig, preprocess: dict[str, Any]) -> Any:
    labeling = settle(checkpoint, model, PreprocessConfig.model_validate(preprocess), PostprocessConfig())
    assert isinstance(labeling.cut, Windows)
    return labeling.preprocess, labeling.cut
