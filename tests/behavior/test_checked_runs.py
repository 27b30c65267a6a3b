"""A run whose replicas have a broken kernel: every row is there, and the run says how they were computed."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import DEMO_MODEL
from PIL import Image
from support.engines import config_of

from m2f_batch.cli import main
from m2f_batch.demo.scenes import VAL_SEED, draw_scene
from m2f_batch.flow.job import segment
from m2f_batch.flow.workers import Steps
from m2f_batch.messages.events import Events, print_line


def load_with_a_broken_kernel(settings: Any) -> Any:
    """A Triton that does not compile."""
    from m2f_batch.flow.unit.actor import load_segmenter
    from m2f_batch.models.mask2former import pixel_decoder

    def fails(*inputs: Any) -> None:
        raise RuntimeError("Triton Error [CUDA]: device kernel image is invalid")

    real, pixel_decoder.deformable_attention = pixel_decoder.deformable_attention, fails
    try:
        return load_segmenter(settings)
    finally:
        pixel_decoder.deformable_attention = real


def test_replicas_with_a_broken_kernel(off_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, why = tmp_path / "images", "RuntimeError: Triton Error [CUDA]: device kernel image is invalid"
    images.mkdir()
    for number in range(4):
        Image.fromarray(draw_scene(VAL_SEED + number).image).save(images / f"{number}.png")
    config = config_of(images, tmp_path / "run", DEMO_MODEL, compute={"actors": 1})
    events = Events(show=print_line)
    assert segment(config, events=events, steps=Steps(load=load_with_a_broken_kernel)).exit_code == 0
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["images"]["ok"] == 4 and info["segments"] > 0
    assert info["forward"] == {"fast": 0, "slow": 1, "why": {why: 1}}
    said = capsys.readouterr().out
    assert f"goes on with transformers' own modules, which are slower: {why}" in said
    main(["status", str(tmp_path / "run")])
    assert f"forward 1 x {why}" in capsys.readouterr().out
