"""Python, commands and YAML of the README and the pages, run as written; and every awkward file through a run."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from conftest import DEMO_MODEL, PROJECT
from support.engines import config_of, in_process, rows_of

from m2f_batch.cli import main
from m2f_batch.config.loading import check_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.demo.command import _draw_scenes
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.inspect.verify import verify

README = PROJECT / "README.md"
GUIDES = PROJECT / "docs" / "guides"


def blocks(page: Path, language: str, marker: str) -> str:
    text = page.read_text()
    found = [block for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if marker in block]
    assert len(found) == 1, marker
    return found[0]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with what the examples name of a checkout in which ``make demo`` has run."""
    (tmp_path / "m2f_batch" / "demo").mkdir(parents=True)
    (tmp_path / "m2f_batch" / "demo" / "model").symlink_to(DEMO_MODEL)
    _draw_scenes(tmp_path / "demo-run" / "images")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_the_readme(checkout, capsys):
    exec(blocks(README, "python", "from_pretrained"), {})
    category, score, *_ = capsys.readouterr().out.split()
    assert category in ("ball", "crate", "ring", "star")
    assert float(score) > 0.5


def test_the_python_example(checkout, capsys):
    names: dict = {}
    exec(blocks(GUIDES / "python.md", "python", "segmenter.rows"), names)
    category, score, *_ = capsys.readouterr().out.split()
    assert category in ("ball", "crate", "ring", "star")
    assert float(score) > 0.5
    assert [row["status"] for row in names["rows"]] == ["ok", "error"]
    assert names["rows"][1]["error"]["type"] == "NotAnImage"


def test_the_yaml_example():
    config = check_config(SegmentConfig, yaml.safe_load(blocks(GUIDES / "label-images.md", "yaml", "job.yaml")))
    assert (config.model.precision, config.preprocess.size) == ("bf16", "paper")


def same_line(shown: str, said: str) -> bool:
    """Whether a line of the page is one that was said, but for seconds, rates, scores' last digits and folders."""
    moving = r"in [\d.]+ s \([\d.]+ images/s\)|\d+\.\d\d\d+"
    start = re.escape(re.sub(moving, "\0", shown)).replace("\0", f"(?:{moving})").replace(r"\.\.\./", r"\S*/")
    return re.fullmatch(start, said) is not None


def test_the_commands_of_the_readme_say_what_it_shows(checkout, capsys):
    shown = blocks(README, "console", "$ m2f-batch").split("$ m2f-batch ")[1:]
    assert len(shown) == 5
    for each in shown:
        command, *lines = each.splitlines()
        if command.startswith("segment "):  # in this process: the same stages, without Ray's seconds
            _, source, output, _, model = command.split()
            config = config_of(source, output, model, output={"uri": output, "images_per_file": 8})
            assert in_process(config) == 0
        else:
            assert main(command.split()) == 0
        said = capsys.readouterr().out.splitlines()
        assert [line for line in lines if not any(same_line(line, other) for other in said)] == [], said
    check_row()
    check_answer()


def check_row():
    """The row of the README is one of the run."""
    shown = blocks(README, "python", '"image_id"').replace("…", "")
    row = eval(shown)
    (found,) = [each for each in rows_of("labels") if each["uri"].endswith("/scene-09.png")]
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


def check_answer():
    """The answer below the query is what it counts. That DuckDB takes the query is a test of the tools."""
    _, below = README.read_text().split("```sql\n")
    answer = re.findall(r"^\| (\w+) \| (\d+) \| [\d.]+ \|$", below.partition("##")[0], re.MULTILINE)
    counts = Counter(segment["category"] for row in rows_of("labels") for segment in row["segments"])
    assert [(name, int(count)) for name, count in answer] == counts.most_common(len(answer))


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
