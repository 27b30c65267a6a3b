"""What the README says in figures and lists, against the code."""

import re

from conftest import PROJECT

from m2f_batch.config import SegmentConfig
from m2f_batch.config_loading import fields_of
from m2f_batch.storage.listing import IMAGE_EXTENSIONS

README = (PROJECT / "README.md").read_text()


def test_image_extensions_are_listed():
    (listed,) = re.findall(r"Image extensions: ([^.]*)\.", README)
    assert listed.split() == sorted(IMAGE_EXTENSIONS)


def test_config_keys_exist():
    known = {key for key, _ in fields_of(SegmentConfig)}
    named = set(re.findall(r"\b((?:input|model|preprocess|postprocess|compute|output)\.[a-z_]+)\b", README))
    assert named - known - {"model.safetensors", "postprocess.py", "preprocess.py"} == set()
    assert len(named) > 8


def test_files_exist():
    paths = re.findall(r"`((?:m2f_batch|tests|jobs|benchmarks|docs|vision|flow|storage)/[\w/.]+)`", README)
    assert len(paths) > 8
    assert [
        path for path in paths if not (PROJECT / path).exists() and not (PROJECT / "m2f_batch" / path).exists()
    ] == []
