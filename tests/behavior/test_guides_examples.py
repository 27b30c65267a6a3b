"""Lines of the README and of the guides, run as they stand over the demo's scenes, answer as these show."""

import contextlib
import io
import itertools
import json
import re
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import DEMO_MODEL, PROJECT
from support.engines import config_of, in_process, outcome_of, rows_of
from support.guides import TITLES, agree, blocks, blocks_of, lines_of, shape_of, text_of

from m2f_batch.cli import main
from m2f_batch.demo.command import _draw_scenes
from m2f_batch.demo.dataset import write_dataset
from m2f_batch.flow.dry_run import Forecast, Whole, forecast_lines
from m2f_batch.flow.prediction import Estimate, Machines
from m2f_batch.records import SCHEMA, ImageRef
from m2f_batch.result import FIELDS
from m2f_batch.runs.tally import Tally

README = (PROJECT / "README.md").read_text()
LIGHT = frozenset({"status", "verify", "export", "explain", "lint", "convert", "evaluate"})
FAULTS = "faulty/train.json"
JUDGED = frozenset({"explain", "evaluate"})  # whose numbers are the model's: rounding may move them a little
LITTLE = 0.02
DRAWN = 10  # scenes to train on, of the 400 that the guides draw: what is said of them has other numbers here


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
        outcome = outcome_of(config_of(demo / "images", demo, model))
    assert outcome.exit_code == 0 and outcome.totals is not None
    (folder / "said.txt").write_text(said.getvalue())
    (folder / "totals.json").write_text(json.dumps(asdict(outcome.totals)))
    for name in ("demo-labels", "first-labels"):
        (folder / name).symlink_to(demo)
    write_dataset(scenes, DRAWN, 40)
    images = scenes / "val" / "images"
    assert in_process(config_of(images, scenes / "labels", model)) == 0
    (scenes / "labels-tuned").symlink_to(scenes / "labels")
    for_ap = {"model": {"task": "instance"}, "postprocess": {"score_threshold": 0}}
    assert in_process(config_of(images, scenes / "labels-ap", model, **for_ap)) == 0
    write_dataset(folder / "few", 40, 1)
    shutil.move(folder / "few" / "train", faulty)  # as the guide makes it
    shutil.move(folder / "few" / "train.json", faulty)
    (faulty / "images" / "1000003.png").unlink()
    shutil.copy(faulty / "images" / "1000005.png", faulty / "images" / "1000009.png")
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


def is_said(shown: str, said: list[str], words: list[str]) -> bool:
    """Whether one of the lines that a command said is this one of the page."""
    if any(word.startswith("scenes/train") for word in words):
        return shape_of(shown) in map(shape_of, said)
    return any(agree(shown, other, LITTLE if words[1] in JUDGED else 0) for other in said)


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
    said: list[str] = []
    for words in lines:
        assert main(words[1:]) == (FAULTS in words and words[1] == "lint"), words
        said += capsys.readouterr().out.splitlines()
    assert [line for line in answer.splitlines() if not is_said(line, said, lines[0])] == [], said


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
                assert agree(answer, said, 1e-3), said
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


def test_the_end_of_the_demo_is_the_same_on_each_page(checkout: Path) -> None:
    said = (checkout / "said.txt").read_text().splitlines()
    shown = [
        line.strip() for text in (README, *map(text_of, TITLES)) for line in text.splitlines() if "25 in =" in line
    ]
    assert len(shown) > 3
    assert [line for line in shown if not any(agree(line, other) for other in said)] == []


def test_the_forecast_of_the_guide_has_the_lines_of_a_dry_run() -> None:
    (shown,) = [block for _, block in blocks("text") if block.startswith("probe ")]
    stages = dict.fromkeys(("fetch", "decode", "copy", "forward", "postprocess", "wait"), 0.01)
    whole = Whole(Estimate(15.0, 12.6, 18.3), "cores", Estimate(3.9e4, 3.5e4, 4.2e4), Estimate(2.2e6, 2.1e6, 2.3e6))
    reasons = Counter({"decode/Truncated": 1})
    images = Tally(ok=23, error=1, segments=137, reasons=reasons)
    said = [*forecast_lines(Forecast(25, Machines("cpu", 1, 2.0, 2.0, 2), images, 9.0, reasons, stages, whole))]
    assert [shape_of(line) for line in shown.splitlines()] == [shape_of(line) for line in said]
    assert agree(shown.splitlines()[0], said[0])


def test_the_annotation_of_the_guide_to_exports(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout)
    ((_, block),) = [each for each in blocks("json") if each[0] == "guides/export.md"]
    assert main(["export", "demo-run", str(tmp_path / "demo.json")]) == 0
    shown, written = json.loads(block), json.loads((tmp_path / "demo.json").read_text())["annotations"]
    (same,) = [each for each in written if each["id"] == shown["id"]]
    mask, whole = shown.pop("segmentation"), same.pop("segmentation")
    assert mask["size"] == whole["size"] and whole["counts"].startswith(mask["counts"])
    assert shown.pop("score") == pytest.approx(same.pop("score"), abs=1e-3)
    assert shown == same


def test_the_result_of_the_guide_to_nights(checkout: Path) -> None:
    ((_, block),) = [each for each in blocks("json") if each[0] == "guides/nightly.md"]
    shown, totals = json.loads(block), json.loads((checkout / "totals.json").read_text())
    ends = {"command", "exit_code", "retry", "started_at", "finished_at"}
    assert shown.keys() == {*FIELDS, *ends}
    for each in (shown["totals"], totals):
        assert each.pop("seconds") > 0 and each.pop("images_per_second") > 0
    assert shown["totals"] == totals


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
        assert [
            line
            for line in lines
            if not any(agree(line, other, LITTLE if command.startswith("explain") else 0) for other in said)
        ] == [], said
    check_row()
    check_answer()


def check_row() -> None:
    """The row of the README is one of the run."""
    shown = of_readme("python", '"image_id"').replace("…", "")
    row = eval(shown)
    (found,) = [each for each in rows_of("demo-labels") if each["uri"].endswith("/scene-09.png")]
    assert list(row) == list(found) == SCHEMA.names
    assert row["image_id"] == ImageRef(row["uri"], row["version"]).image_id
    assert row["version"].split("-")[0] == found["version"].split("-")[0]  # the size of the file
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
