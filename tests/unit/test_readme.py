"""What the README and the pages of the documents say in figures and lists, against the code and the results."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT

from benchmarks.lib.results import Line, line_of, lines_of, span
from benchmarks.pictures.speed import bars
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import fields_of
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.models.family import all_families
from m2f_batch.version import VERSION

README = (PROJECT / "README.md").read_text()
PAGES = [
    page
    for page in sorted([PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")])
    if not page.is_relative_to(PROJECT / "docs" / "reference")  # written from the code, by a test of its own
]
TEXTS = "\n".join(page.read_text() for page in PAGES)


def name_of(page: Path) -> str:
    return page.relative_to(PROJECT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150
    assert len(README.split()) <= 900
    assert re.findall(r"^ {4}make (\w+)", README, re.MULTILINE) == ["demo", "test"]


def test_the_architectures_are_counted():
    families = [
        file for file in (PROJECT / "m2f_batch" / "models" / "families").glob("*.py") if file.stem != "__init__"
    ]
    assert len(families) == 11
    assert "runs [eleven architectures](docs/guides/models.md)" in README


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert (cited["version"], cited["license"], cited["cff-version"]) == (VERSION, "MIT", "1.2.0")
    assert cited["authors"] == [{"name": "the m2f_batch developers"}]


def test_config_keys_exist():
    known = {key for config in (SegmentConfig, FinetuneConfig) for key, _ in fields_of(config)}
    sections = "|".join(sorted({key.partition(".")[0] for key in known}))
    texts = re.sub(r"^```python\n.*?^```$", "", TEXTS, flags=re.MULTILINE | re.DOTALL)  # run.rows is of a variable
    named = set(re.findall(rf"(?<!\.)\b((?:{sections})(?:\.[a-z_0-9]+)+)\b", texts))
    files = {"model.safetensors", "run.json", "train.json", "data.yaml"}
    files |= {name for name in named if name.endswith((".py", ".md"))}
    parameters = {name for name in named if f"{name}.".startswith("model.config.")}  # of transformers
    assert named - known - files - parameters == set()
    assert len(named & known) > 40


def test_files_exist():
    texts = TEXTS + (PROJECT / "CONTRIBUTING.md").read_text()
    folders = "m2f_batch|tests|jobs|benchmarks|docs|infra|vision|flow|storage"
    paths = re.findall(rf"`((?:{folders})/[\w/.-]+)`", texts)
    assert len(paths) > 60
    assert [
        path for path in paths if not (PROJECT / path).exists() and not (PROJECT / "m2f_batch" / path).exists()
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_of_a_page_is_python(page: Path) -> None:
    """What a page imports of ours is there. What it shows of other packages is not run."""
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("m2f_batch"):
                module = __import__(node.module, fromlist=["*"])
                assert [each.name for each in node.names if not hasattr(module, each.name)] == []


def test_pictures_are_small():
    pictures = [file for file in (PROJECT / "docs").rglob("*") if file.suffix in (".png", ".jpg", ".svg")]
    assert len(pictures) > 5
    assert [file.name for file in pictures if file.stat().st_size > 200_000] == []
    pages = [PROJECT / "benchmarks" / "README.md", *(PROJECT / "docs").rglob("*.md")]
    texts = TEXTS + "".join(page.read_text() for page in pages)
    assert [file.name for file in pictures if file.name not in texts] == []


def postprocessing(task: str, output: str, kept: int, classes: int) -> Line:
    cells = {"task": task, "output": output, "kept": str(kept), "classes": str(classes)}
    return line_of("postprocess", "transformers / ours", **cells)


def seconds(text: str) -> float:
    value, unit = text.split()
    return float(value) / (1000 if unit == "ms" else 1)


def test_figures_of_the_readme_are_those_of_the_results():
    readme = " ".join(README.split())
    instance = postprocessing("instance", "2160x3840", 40, 80)
    assert f"[median IoU with the paper's is {float(instance['IoU of transformers']):.2f}]" in readme
    ours, theirs = (seconds(instance[name]) for name in ("ours", "transformers"))
    assert f"{instance['kept']} objects in a 4K image take [{ours:.2f} s in place of {theirs:.1f}]" in readme
    memory = line_of("memory", "ours, MiB", task="instance")
    theirs = float(memory["transformers, MiB"].replace(",", "")) / 1024
    assert f"{memory['ours, MiB']} MiB [in place of {theirs:.1f} GiB]" in readme
    job = line_of("job", "whole job / this", way="transformers pipeline")
    assert f"[{span(job['whole job / this']).median:.1f} times as fast]" in readme
    again, _, runs = refetched()
    assert f"In {runs} runs over 100,000 stand-ins" in readme
    assert f"13 or 14 processes were killed each time: [{again} images were fetched twice]" in readme
    sound, both = (line_of("corrupt", "rows", images=name)["rows"] for name in ("sound", "sound and a tenth broken"))
    beside = (
        f"[{sound} sound images stay the same](benchmarks/results/corrupt.md) beside {int(both) - int(sound)} broken"
    )
    assert beside in readme


def refetched() -> tuple[str, str, str]:
    """What was fetched twice in the runs with the same kills: images, units for each process, and how many runs."""
    runs = [run for run in lines_of("kills", "again, images") if run[""] == "now"]
    assert {(run["processes"], run["units"]) for run in runs} == {("13", "782"), ("14", "782")}
    assert {run["killed"] for run in runs} == {"7 tasks, 3 replicas, 2 nodes"}
    images = sorted((run["again, images"] for run in runs), key=lambda count: int(count.replace(",", "")))
    units = sorted(float(run["units each"]) for run in runs)
    return f"{images[0]} to {images[-1]}", f"{units[0]:.1f} to {units[-1]:.1f}", {4: "four"}[len(runs)]


def is_rounded(shown: str, value: float) -> bool:
    """Whether a page shows a value to the digits that it gives."""
    return abs(float(shown) - value) <= 0.5000001 * 10.0 ** -len(shown.partition(".")[2])


def test_the_page_on_speed_says_what_was_measured():
    page = (PROJECT / "docs" / "explanation" / "speed.md").read_text()
    cells = [("instance", "2160x3840", 40, 80), ("instance", "480x640", 20, 80)]
    cells += [("semantic", "2160x3840", 40, 150), ("panoptic", "2160x3840", 40, 133)]
    lines = [(each["ours"], each["transformers"]) for each in (postprocessing(*cell) for cell in cells)]
    for canvas in ("512x512", "800x1088"):
        line = line_of("forward", "eager / ours", canvas=canvas)
        lines.append((line["ours"], line["eager"]))
    shown = re.findall(r"^\|[^|]*\| ([\d.]+) s \| ([\d.]+) s \|", page, re.MULTILINE)
    assert len(shown) == len(lines)
    for pair, measured in zip(shown, lines, strict=True):
        assert all(is_rounded(text, seconds(value)) for text, value in zip(pair, measured, strict=True)), pair
    ((ours, pipeline, loop),) = re.findall(
        r"\| ([\d.]+) images/s \| ([\d.]+) \(its pipeline; a DataLoader loop: ([\d.]+)\)", page
    )
    ways = ("whole job after start-up", "transformers pipeline", "transformers, DataLoader and pycocotools")
    job = [line_of("job", "whole job / this", way=way) for way in ways]
    assert all(
        is_rounded(text, float(line["images/s"])) for text, line in zip((ours, pipeline, loop), job, strict=True)
    )
    counts = [line["images"] for line in job]
    assert f"over {counts[0]} photographs by ours and {counts[1]} by theirs" in " ".join(page.split())


def test_the_page_on_durability_says_what_was_counted():
    page = " ".join((PROJECT / "docs" / "explanation" / "durability.md").read_text().split())
    again, units, runs = refetched()
    killed = "in 782 units on four nodes, 7 tasks, 3 replicas and 2 nodes were killed, in each of"
    assert f"{killed} {runs} runs. {again} images were fetched twice, which is {units} units for each" in page
    table = (PROJECT / "benchmarks" / "README.md").read_text().partition("## Chaos")[2].partition("## ")[0]
    counts = re.findall(r"^\| .*? \| (\d+) \| (\d+) \| (\d+) \| ([\d,]+) \| 0 \| 0 \| 0 \|$", table, re.MULTILINE)
    schedules, events, faults, rows = (
        sum(int(each.replace(",", "")) for each in column) for column in zip(*counts, strict=True)
    )
    assert (
        f"Of {schedules} schedules with {events} events and {faults} faults of S3, no row of {rows:,} was lost" in page
    )


def test_the_quality_of_the_demo_model_is_the_one_measured():
    row = r"^\| 400, seeds .*? \| the bundled one \| ([\d.]+) \| [\d.]+ \| ([\d.]+) \| ([\d.]+) \|$"
    (measured,) = re.findall(row, (PROJECT / "benchmarks" / "README.md").read_text(), re.MULTILINE)
    assert f"| 400 unseen drawn scenes | {' | '.join(measured)} |" in README


def test_each_family_is_in_the_tables_of_models():
    tables = re.split(r"^#{2,3} ", (PROJECT / "docs" / "guides" / "models.md").read_text(), flags=re.MULTILINE)
    (described,) = [table for table in tables if table.startswith("Architectures")]
    (differing,) = [table for table in tables if table.startswith("Where transformers differs")]
    first, sizes = described.split("`preprocess.size` says")
    named = re.findall(r"^\| .*?, `(\w+)`", first, re.MULTILINE)
    assert sorted(each for each in named if each != "model_type") == sorted(all_families())
    rows = re.findall(r"^\| (`[^|]*`) \|", sizes, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row) if name != "model_type"]
    assert sorted(named) == sorted(all_families())
    named = re.findall(r"^\| `(\w+)` \|", differing, re.MULTILINE)
    assert sorted({*named} - {"model_type"}) == sorted(all_families())


def test_the_chart_shows_what_the_page_on_speed_says():
    page = (PROJECT / "docs" / "explanation" / "speed.md").read_text()
    rows = re.findall(r"^\|(?:[^|]*\|){3} ([\d.]+) \|$", page, re.MULTILINE)
    drawn = [bar.ratio.median for bar in bars()]
    assert sorted(map(float, rows)) == sorted(round(each, 1 if each < 5 else None) for each in drawn)


def test_a_table_without_the_column_is_no_table():
    with pytest.raises(KeyError, match="no table has a column 'nothing'"):
        lines_of("postprocess", "nothing")
