"""The guides against the code: each command parses, each config is taken, each name and file that they say exists."""

import importlib.util
import json
import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT
from support.guides import TITLES, blocks, blocks_of, commands, lines_of, text_of

from m2f_batch.cli import new_parser
from m2f_batch.commands import finetune, lint, segment
from m2f_batch.commands.shared.keys import config_of, flags_of, without_address
from m2f_batch.commands.shared.registry import find_commands
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.formats import read_formats
from m2f_batch.config.loading import check_config, load_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.datasets.format import dataset_targets, run_targets
from m2f_batch.inputs.names.images import IMAGE_EXTENSIONS

JOBS = {"segment": (SegmentConfig, segment.KEYS), "finetune": (FinetuneConfig, finetune.KEYS)}
REQUIRED = {
    SegmentConfig: {"input.uri": "I", "model.uri": "M", "output.uri": "O"},
    FinetuneConfig: {"data.train": "D", "output.uri": "O", "train.steps": 1},
}
OF_TRAINING = frozenset({"data", "augment", "train"})  # sections
FOLDERS = ("m2f_batch/", "tests/", "jobs/", "benchmarks/", "docs/", "infra/")


def parsed(words: Sequence[str]) -> Namespace:
    return new_parser(find_commands()).parse_args([*words])


def test_there_is_a_guide_to_each_command() -> None:
    named = {words[0] for _, words in commands()}
    assert named >= find_commands().keys() - {"demo"}


@pytest.mark.parametrize("name", TITLES)
def test_each_block_says_its_language(name: str) -> None:
    assert [block for language, block in blocks_of(text_of(name)) if not language] == []


@pytest.mark.parametrize(
    ("name", "words"), commands(), ids=lambda value: value if isinstance(value, str) else " ".join(value)[:60]
)
def test_each_command_is_taken_with_its_settings(
    name: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").symlink_to(PROJECT / "jobs")
    for block in (text for page, text in blocks("yaml") if page == name):
        if title := re.match(r"# ([\w.-]+\.yaml)\n", block):
            (tmp_path / title[1]).write_text(block)
    if words[0].startswith("--"):  # it stands in place of a command, prints and ends
        with pytest.raises(SystemExit, match=r"^0$"):
            parsed(words)
        return
    options = parsed(words)
    job = getattr(options, "job", options.command)
    if job in JOBS:
        kind, keys = JOBS[job]
        config_of(kind, options, keys if options.command == job else without_address(keys))
    elif job == "lint":
        flags = flags_of(options, lint.KEYS) | {"output.uri": "-"}
        load_config(FinetuneConfig, file=options.config, flags=flags if options.config else flags | {"train.steps": 1})
    elif job == "export":
        assert options.format in run_targets()
    elif job == "convert":
        assert options.form in read_formats() and options.to in dataset_targets()
    elif job == "evaluate":
        assert options.format is None or options.format in read_formats()


def test_files_in_commands_exist() -> None:
    words = {word for _, block in blocks("sh") for line in lines_of(block) for word in line}
    named = {word for word in words if word.startswith(FOLDERS)}
    assert [word for word in named if not (PROJECT / word).exists()] == []
    assert len(named) > 12


def test_modules_in_commands_exist() -> None:
    named = {line[2] for _, block in blocks("sh") for line in lines_of(block) if line[:2] == ["python", "-m"]}
    assert named and all(importlib.util.find_spec(module) for module in named)


@pytest.mark.parametrize(("name", "block"), blocks("yaml"), ids=lambda value: value.split("\n")[0][:40])
def test_each_yaml_is_a_config(name: str, block: str) -> None:
    tree = yaml.safe_load(block)
    kind = FinetuneConfig if OF_TRAINING & tree.keys() else SegmentConfig
    for key, value in REQUIRED[kind].items():
        section, _, last = key.partition(".")
        tree.setdefault(section, {}).setdefault(last, value)
    check_config(kind, tree)


@pytest.mark.parametrize(("name", "block"), blocks("json"), ids=lambda value: value[:30])
def test_each_json_loads(name: str, block: str) -> None:
    assert json.loads(block)


def test_image_extensions_are_listed() -> None:
    (listed,) = re.findall(r"Image extensions: ([^.]*)\.", text_of("guides/label-images.md"))
    assert listed.split() == sorted(IMAGE_EXTENSIONS)


def test_each_format_is_listed() -> None:
    rows = {name: re.findall(r"^\| `([a-z][a-z-]+)` \|", text_of(name), re.MULTILINE) for name in TITLES}
    assert sorted(rows["guides/datasets.md"]) == sorted(read_formats())
    assert sorted(rows["guides/export.md"]) == sorted(run_targets())
