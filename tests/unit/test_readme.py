"""What the README says in figures and lists, against the code."""

import re

from conftest import PROJECT

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import fields_of
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.inputs.listing import IMAGE_EXTENSIONS

README = (PROJECT / "README.md").read_text()


def test_image_extensions_are_listed():
    (listed,) = re.findall(r"Image extensions: ([^.]*)\.", README)
    assert listed.split() == sorted(IMAGE_EXTENSIONS)


def test_config_keys_exist():
    known = {key for config in (SegmentConfig, FinetuneConfig) for key, _ in fields_of(config)}
    sections = "input|model|preprocess|postprocess|compute|output|run|data|augment|train"
    named = set(re.findall(rf"\b((?:{sections})\.[a-z_]+)\b", README))
    files = {"model.safetensors", "run.json", "train.json", "data.yaml"}
    files |= {"postprocess.py", "preprocess.py", "augment.py", "data.py"}
    assert named - known - files == set()
    assert len(named) > 8


def test_files_exist():
    texts = README + (PROJECT / "docs" / "architecture.md").read_text() + (PROJECT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:m2f_batch|tests|jobs|benchmarks|docs|vision|flow|storage)/[\w/.]+)`", texts)
    assert len(paths) > 60
    assert [
        path for path in paths if not (PROJECT / path).exists() and not (PROJECT / "m2f_batch" / path).exists()
    ] == []
