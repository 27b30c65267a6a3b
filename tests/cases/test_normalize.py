"""Checkpoints whose image processor neither rescales nor normalizes: their authors did so in code of their own."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DEMO_MODEL
from support.bare_models import BARE, DOUBT, model_with
from support.engines import config_of, in_process
from support.hand_made import make_model

from m2f_batch.cli import main
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import check_config
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.explain.recorded import read_setup
from m2f_batch.flow.job import check
from m2f_batch.models.checkpoint import read_checkpoint
from m2f_batch.models.families.mask2former import FAMILY
from m2f_batch.models.processor import plan_from_processor
from m2f_batch.runs.reader import open_run
from m2f_batch.train.command import plan_lines
from m2f_batch.train.start.job import plan_job, tuned_processor
from m2f_batch.vision.segmenter import Segmenter

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def test_what_is_not_given_is_no_part_of_the_fingerprint(one_scene: Path, tmp_path: Path) -> None:
    def facts(model: Path, **preprocess: Any) -> dict[str, Any]:
        job = check(config_of(one_scene, tmp_path / "run", model, preprocess=preprocess))
        return job.labeling.facts(job.checkpoint.fingerprint, 1, 2)

    plain = facts(DEMO_MODEL)
    assert set(plain["preprocess"]) == {
        *("size", "divisor", "round_content", "resample", "rescale_factor", "mean", "std", "pad_size", "lone_edge"),
    }
    bare = model_with(tmp_path / "bare", **BARE)
    assert facts(DEMO_MODEL, normalize=None) == plain == facts(bare, normalize=IMAGENET) != facts(bare)
    assert facts(DEMO_MODEL, normalize={"mean": [0.5] * 3, "std": [0.5] * 3}) != plain


def test_explain_sees_what_the_run_saw(one_scene: Path, tmp_path: Path) -> None:
    bare = model_with(tmp_path / "bare", **BARE)
    assert in_process(config_of(one_scene, tmp_path / "run", bare, preprocess={"normalize": IMAGENET})) == 0
    setup = read_setup(open_run(str(tmp_path / "run")).info)
    assert setup.problems == [] and setup.labeling.preprocess.mean == (0.485, 0.456, 0.406)


def test_the_segmenter_warns_and_takes_it(tmp_path: Path) -> None:
    bare = str(model_with(tmp_path / "bare", **BARE))
    with pytest.warns(UserWarning, match="neither rescales nor normalizes.*the argument is normalize"):
        Segmenter.from_pretrained(bare, task="instance")
    image = draw_scene(3).image
    with warnings.catch_warnings(action="error"):
        told = Segmenter.from_pretrained(bare, task="instance", normalize=IMAGENET)
        whole = Segmenter.from_pretrained(str(DEMO_MODEL), task="instance")
    (found,), (known,) = told([image]), whole([image])
    assert [s.counts for s in found] == [s.counts for s in known] and found


@pytest.mark.parametrize(
    ("processor", "told"),
    [
        ({}, None),
        ({"do_normalize": False}, None),  # 0 to 1: some are trained so
        ({"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]}, None),  # -1 to 1
        ({"do_rescale": False, "image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]}, None),
        (BARE, "neither rescales nor normalizes: the model is given values from 0 to 255"),
        ({"do_rescale": False}, "does not rescale: the model is given values from -2.118 to 1136"),
        (
            {"image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]},
            "rescales and normalizes oddly: the model is given values from -2.118 to -1.787",
        ),
        ({"do_normalize": False, "rescale_factor": 1 / 65025}, "does not normalize: the model is given values from 0"),
    ],
)
def test_values_that_no_model_is_trained_on(processor: dict[str, Any], told: str | None) -> None:
    doubt = plan_from_processor(processor).doubt()
    assert doubt is None if told is None else doubt is not None and told in doubt


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("{mean: [123.7, 116.3, 103.5], std: [58.4, 57.1, 57.4]}", "(it must be less than or equal to 1)"),
        ("{mean: [0.5, 0.5, 0.5], std: [0.5, 0, 0.5]}", "(it must be greater than 0)"),
        ("{mean: [0.5, 0.5, 0.5]}", "(a part is missing)"),
        ("imagenet", "'imagenet' is not allowed"),
    ],
)
def test_values_that_mean_nothing(one_scene: Path, tmp_path: Path, value: str, told: str, capsys: Any) -> None:
    command = ["segment", str(one_scene), str(tmp_path / "run"), "--model", str(DEMO_MODEL)]
    assert main([*command, "--set", f"preprocess.normalize={value}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("m2f-batch segment: preprocess.normalize: ") and told in said
    assert (
        "allowed: {mean, std} of red, green and blue (of pixels from 0 to 1: divide those of 0 to 255 by 255)" in said
        and not (tmp_path / "run").exists()
    )


@pytest.mark.parametrize("given", [False, True])
def test_the_plan_of_finetune_warns(one_scene: Path, tmp_path: Path, given: bool) -> None:
    bare = model_with(tmp_path / "bare", **BARE)
    shape = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 90, 1, 90, 90]], "area": 3960}
    height, width = draw_scene(3).image.shape[:2]
    tree = {"images": [{"id": 1, "file_name": "a.png", "height": height, "width": width}], "annotations": [shape]}
    (one_scene / "train.json").write_text(json.dumps(tree | {"categories": [{"id": 1, "name": "ball"}]}))
    config = {
        "data": {"format": "coco", "train": str(one_scene / "train.json")},
        "model": {"uri": str(bare), "task": "instance"},
        "train": {"steps": 1},
        "output": {"uri": str(tmp_path / "out")} | ({"normalize": IMAGENET} if given else {}),
    }
    lines = plan_lines(plan_job(check_config(FinetuneConfig, config)))
    assert (f"warning {DOUBT}; the key is output.normalize" in lines) == (not given)


def test_what_finetune_trains_with_and_writes(tmp_path: Path) -> None:
    """The processor of the tuned model: the checkpoint's, or whole where ``output.normalize`` says so."""
    checkpoint = read_checkpoint(make_model(tmp_path / "m"), "m")
    tree = {"data": {"format": "coco", "train": "x"}, "model": {"uri": "m"}, "train": {"steps": 1}}
    for output, known in ({}, BARE), ({"normalize": IMAGENET}, {"do_rescale": True, "do_normalize": True}):
        config = check_config(FinetuneConfig, tree | {"output": {"uri": "y"} | output})
        made = tuned_processor(config, FAMILY, dict(checkpoint.processor) | BARE, None)
        assert {key: made[key] for key in known} == known
        assert (plan_from_processor(made).doubt() is None) == bool(output)
    assert (made["image_mean"], made["image_std"]) == (IMAGENET["mean"], IMAGENET["std"])
    assert np.isclose(made["rescale_factor"], 1 / 255)
