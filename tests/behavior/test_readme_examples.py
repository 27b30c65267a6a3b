"""The config that a guide shows is taken; and every awkward file through a run."""

import json
import re
from pathlib import Path

import pytest
import yaml
from conftest import DEMO_MODEL, PROJECT
from support.engines import config_of, in_process, rows_of

from m2f_batch.config.loading import check_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.inspect.verify import verify


def test_the_yaml_example():
    text = (PROJECT / "docs" / "guides" / "label-images.md").read_text()
    (block,) = [each for each in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "job.yaml" in each]
    config = check_config(SegmentConfig, yaml.safe_load(block))
    assert (config.model.precision, config.preprocess.size) == ("bf16", "paper")


def test_every_awkward_file_has_its_row(shared_data, tmp_path):
    described = json.loads((shared_data / "awkward" / "manifest.json").read_text())
    # the 200-megapixel image takes a minute; its decoding has a test of its own
    files = sorted(str(shared_data / "awkward" / item["file"]) for item in described if item["category"] != "huge")
    (tmp_path / "all.txt").write_text("\n".join(files))
    config = config_of(tmp_path / "all.txt", tmp_path / "run", DEMO_MODEL, model={"task": "instance"})
    assert in_process(config) == 0
    rows = rows_of(tmp_path / "run")
    assert [row["uri"] for row in rows] == files
    assert verify(open_directory(str(tmp_path / "run")), "instance") == []
    errors = {Path(row["uri"]).name: row["error"]["type"] for row in rows if row["error"]}
    # what Pillow decodes is ok; so is HEIC, with its extra, but for the files below
    pillow = {Path(item["file"]).name: item["pillow_outcome"] for item in described if item["category"] != "huge"}
    unreadable = {name for name, outcome in pillow.items() if outcome != "decodes"}
    heic = {name for name in unreadable if name.lower().endswith((".heic", ".heif")) and "empty" not in name}
    pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
    text_bomb = "pillow__png_decompression_dos.png"  # whole but for a text, at which Pillow gives up
    assert errors.keys() == unreadable - heic - {text_bomb}
    assert errors["pillow_heif__empty.heic"] == "Empty"
    assert errors["libvips__logo.svg"] == "NotAnImage"
    assert errors["libvips__17000x17000.avif"] == "TooManyPixels"
    assert errors["pillow__truncated_image.png"] == "Truncated"
