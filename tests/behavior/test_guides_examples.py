"""Lines of the README and of the guides, run as they stand over the demo's scenes, answer as these show."""

import contextlib
import io
import itertools
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import DEMO_MODEL, PROJECT
from support.engines import config_of, in_process, rows_of
from support.guides import TITLES, blocks_of, lines_of, text_of

from m2f_batch.cli import main
from m2f_batch.demo.command import _draw_scenes
from m2f_batch.demo.dataset import write_dataset

README = (PROJECT / "README.md").read_text()
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
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert in_process(config_of(demo / "images", demo, model)) == 0
    (folder / "said.txt").write_text(said.getvalue())
    for name in ("demo-labels", "first-labels"):
        (folder / name).symlink_to(demo)
    write_dataset(scenes, 10, 6)
    images = scenes / "val" / "images"
    assert in_process(config_of(images, scenes / "labels", model)) == 0
    (scenes / "labels-tuned").symlink_to(scenes / "labels")
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
    if words[0] != "m2f-batch" or words[1] not in LIGHT:
        return False
    return words[2].startswith(("demo-run", "scenes/", "faulty/")) or words[1:] in (
        ["status", "first-labels/"],
        ["verify", "first-labels/"],
    )


def examples() -> list[tuple[str, list[list[str]], str]]:
    """The page, the lines to run of a block of a shell, and the answer that the next block shows, if one does."""
    found = []
    for name in TITLES:
        read = blocks_of(text_of(name))
        for (language, block), (after, answer) in itertools.pairwise([*read, ("", "")]):
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
    names: dict[str, Any] = {}
    for (language, block), (after, answer) in itertools.pairwise([*blocks_of(text_of("guides/python.md")), ("", "")]):
        if language == "python":
            exec(block, names)
            said = capsys.readouterr().out
            if after == "text":
                assert shape(said).split()[0] and len(said.split()) == len(answer.split())
    assert [row["status"] for row in names["rows"]] == ["ok", "error"]
    assert names["rows"][1]["error"]["type"] == "NotAnImage"


def of_readme(language: str, marker: str) -> str:
    """The only block of the README in a language that holds ``marker``."""
    (block,) = [each for lang, each in blocks_of(README) if lang == language and marker in each]
    return block


def test_the_python_of_the_readme(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout)
    exec(of_readme("python", "from_pretrained"), {})
    category, score, *_ = capsys.readouterr().out.split()
    assert category in ("ball", "crate", "ring", "star")
    assert float(score) > 0.5


def same_line(shown: str, said: str) -> bool:
    """Whether a line of the page is one that was said, but for seconds, rates, scores' last digits and folders."""
    moving = r"in [\d.]+ s \([\d.]+ images/s\)|\d+\.\d\d\d+"
    start = re.escape(re.sub(moving, "\0", shown)).replace("\0", f"(?:{moving})").replace(r"\.\.\./", r"\S*/")
    return re.fullmatch(start, said) is not None


def test_the_commands_of_the_readme_say_what_it_shows(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout)
    shown = of_readme("console", "$ m2f-batch").split("$ m2f-batch ")[1:]
    assert len(shown) == 5
    for each in shown:
        command, *lines = each.splitlines()
        if command.startswith("segment "):  # in this process: the same stages, without Ray's seconds
            said = Path("said.txt").read_text().splitlines()
        else:
            assert main(command.split()) == 0
            said = capsys.readouterr().out.splitlines()
        assert [line for line in lines if not any(same_line(line, other) for other in said)] == [], said
    check_row()
    check_answer()


def check_row() -> None:
    """The row of the README is one of the run."""
    shown = of_readme("python", '"image_id"').replace("…", "")
    row = eval(shown)
    (found,) = [each for each in rows_of("demo-labels") if each["uri"].endswith("/scene-09.png")]
    assert row.keys() == found.keys()
    for name in ("height", "width", "status", "error"):
        assert row[name] == found[name]
    (segment,) = row["segments"]
    assert len(found["segments"]) == 4
    (same,) = [each for each in found["segments"] if each["id"] == segment["id"]]
    assert segment.keys() == same.keys()
    assert same["counts"].startswith(segment.pop("counts"))
    assert segment.pop("score") == pytest.approx(same["score"], abs=1e-3)
    assert segment.items() <= same.items()


def check_answer() -> None:
    """The answer below the query is what it counts. That DuckDB takes the query is a test of the tools."""
    _, below = README.split("```sql\n")
    answer = re.findall(r"^\| (\w+) \| (\d+) \| [\d.]+ \|$", below.partition("##")[0], re.MULTILINE)
    counts = Counter(segment["category"] for row in rows_of("demo-labels") for segment in row["segments"])
    assert [(name, int(count)) for name, count in answer] == counts.most_common(len(answer))
