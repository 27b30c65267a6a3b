"""The guides' own lines, run as they stand over the demo's scenes, answer in the shape that the guides show."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import DEMO_MODEL
from support.engines import config_of, in_process
from support.guides import TITLES, blocks_of, lines_of, text_of

from m2f_batch.cli import main
from m2f_batch.demo.command import _draw_scenes
from m2f_batch.demo.dataset import write_dataset

LIGHT = frozenset({"status", "verify", "export", "explain", "lint", "convert", "evaluate"})
FAULTS = "faulty/train.json"
JUDGED = frozenset({"explain", "evaluate"})  # numbers of the model, which rounding may move from one line to another


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the guides name: the demo's run, drawn scenes with runs over them, and scenes with faults."""
    folder = tmp_path_factory.mktemp("checkout")
    model = folder / "m2f_batch" / "demo" / "model"
    model.parent.mkdir(parents=True)
    model.symlink_to(DEMO_MODEL)
    demo, scenes, faulty = folder / "demo-run", folder / "scenes", folder / "faulty"
    _draw_scenes(demo / "images")
    assert in_process(config_of(demo / "images", demo, model)) == 0
    write_dataset(scenes, 10, 6)
    images = scenes / "val" / "images"
    assert in_process(config_of(images, scenes / "labels", model)) == 0
    for_ap = {"model": {"task": "instance"}, "postprocess": {"score_threshold": 0}}
    assert in_process(config_of(images, scenes / "labels-ap", model, **for_ap)) == 0
    shutil.copytree(scenes / "train", faulty)
    shutil.copy(scenes / "train.json", faulty)
    entries = json.loads((faulty / "train.json").read_text())
    first, copied, missing = entries["annotations"][:3]
    for kind in ("images", "masks"):
        shutil.copy(faulty / kind / first["file_name"], faulty / kind / copied["file_name"])
    copied["segments_info"] = first["segments_info"]
    for size in ("height", "width"):
        entries["images"][1][size] = entries["images"][0][size]
    (faulty / "images" / missing["file_name"]).unlink()
    (faulty / "train.json").write_text(json.dumps(entries))
    return folder


def is_light(words: list[str]) -> bool:
    """Whether a line can be run here: it reads what ``checkout`` holds."""
    return words[0] == "m2f-batch" and words[1] in LIGHT and words[2].startswith(("demo-run", "scenes/", "faulty/"))


def examples() -> list[tuple[str, list[list[str]], str]]:
    """The page, the lines to run of a block of a shell, and the answer that the next block shows, if one does."""
    found = []
    for name in TITLES:
        read = blocks_of(text_of(name))
        for (language, block), (after, answer) in zip(read, [*read[1:], ("", "")], strict=True):
            lines = [words for words in lines_of(block) if is_light(words)] if language == "sh" else []
            if lines:
                found.append((name, lines, answer if after == "text" else ""))
    return found


def shape(line: str, is_judged: bool = False) -> str:
    """A line without its numbers, times and folders, or its first word alone.

    >>> shape("wrote   …/a/b.json: 24 images"), shape("/tmp/x/run: panoptic, 40 images", is_judged=True)
    ('wrote b.json: # images', 'run:')
    """
    words = re.sub(r"\d[\d,.]*", "#", re.sub(r"\S*/", "", line)).split()
    return " ".join(words[:1] if is_judged else words)


@pytest.mark.parametrize(("name", "lines", "answer"), examples(), ids=lambda value: str(value)[:50])
def test_lines_answer_as_the_guide_shows(
    name: str,
    lines: list[list[str]],
    answer: str,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(checkout)
    codes = {tuple(words): main(words[1:]) for words in lines}
    assert {words: code for words, code in codes.items() if code != (FAULTS in words and words[1] == "lint")} == {}
    said = capsys.readouterr().out.splitlines()
    is_judged = any(words[1] in JUDGED for words in lines)
    shown = [line for line in answer.splitlines() if not (is_judged and line.startswith(" "))]
    known = {shape(line, is_judged) for line in said}
    assert [line for line in shown if shape(line, is_judged) not in known] == []


def test_answers_are_shown() -> None:
    assert {words[1] for _, lines, answer in examples() if answer for words in lines} == LIGHT


def test_the_python_guide_runs_from_its_first_block_to_its_last(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout)
    names: dict[str, object] = {}
    read = blocks_of(text_of("guides/python.md"))
    for (language, block), (after, answer) in zip(read, [*read[1:], ("", "")], strict=True):
        if language == "python":
            exec(block, names)
            said = capsys.readouterr().out
            if after == "text":
                assert shape(said).split()[0] and len(said.split()) == len(answer.split())
