"""The layers of the README, held true: imports go down only, without cycles; pure modules load no torch and no ray."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from conftest import PROJECT

PACKAGE = PROJECT / "m2f_batch"


def layers() -> list[list[str]]:
    """The boxes of the README's drawing, from the top; the text behind the last bar of a line is for people."""
    drawing = re.search(r"```layers\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert drawing, "the README has lost its drawing of the modules"
    lines = [line for line in drawing[1].splitlines() if line.startswith("|")]
    return [[box.strip() for box in line[1 : line.rindex("|")].split("|")] for line in lines]


LAYERS = layers()
HEAVY = ("torch", "torchvision", "transformers", "ray", "boto3", "scipy")
# what may be loaded by a command line, a driver or a pure module
LIGHT = [
    "m2f_batch.cli",
    "m2f_batch.records",
    "m2f_batch.labels",
    "m2f_batch.config_loading",
    "m2f_batch.checkpoint",
    "m2f_batch.vision.geometry",
    "m2f_batch.vision.image",
    "m2f_batch.vision.rle",
    "m2f_batch.vision.labeling",
    "m2f_batch.storage.run",
    "m2f_batch.storage.model_source",
    "m2f_batch.verify",
    "m2f_batch.status",
    "m2f_batch.export.command",
    "m2f_batch.datasets.convert",
    "m2f_batch.evaluation.command",
    "m2f_batch.demo.scenes",
]


def modules() -> dict[str, Path]:
    files = {
        path: path.relative_to(PROJECT).with_suffix("") for path in [*PACKAGE.rglob("*.py"), *PROJECT.glob("jobs/*.py")]
    }
    return {".".join(name.parts): path for path, name in files.items() if path.name != "__init__.py"}


MODULES = modules()


def imports_of(path: Path) -> set[str]:
    """All modules of the project that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


def layer_of(module: str) -> tuple[int, str]:
    """The line of the table, and the place in it, that fits best."""
    short = module.removeprefix("m2f_batch.")
    places = [(len(place), line, place) for line, names in enumerate(LAYERS) for place in names]
    fitting = [item for item in places if short == item[2] or short.startswith(item[2] + ".")]
    assert fitting, f"{module} stands in no layer: draw it in the README"
    _, line, place = max(fitting)
    return line, place


def test_imports_go_down_only():
    place_of = {module: layer_of(module) for module in MODULES}
    up = []
    for module, path in MODULES.items():
        line, place = place_of[module]
        up += [
            f"{module} (line {line}) imports {other} (line {place_of[other][0]})"
            for other in imports_of(path)
            if place_of[other][0] <= line and place_of[other][1] != place
        ]
    assert up == []


def test_there_are_no_cycles():
    graph = {name: imports_of(path) for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for imported in graph[name]:
                visit(imported, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_every_box_stands_for_something():
    places = {layer_of(module)[1] for module in MODULES}
    assert places == {place for line in LAYERS for place in line}


def test_init_files_hold_nothing():
    assert all(path.read_text() == "" for path in PACKAGE.rglob("__init__.py"))


def test_the_only_importers_of_ray_data_and_of_transformers():
    for name, path in MODULES.items():
        text = path.read_text()
        if not name.startswith("m2f_batch.flow") and name not in (
            "m2f_batch.train.network",
            "m2f_batch.train.worker",
            "m2f_batch.train.ray_stream",
        ):
            assert "import ray" not in text, name
            assert "from ray" not in text, name
        if name not in ("m2f_batch.vision.model", "m2f_batch.vision.architecture") and not name.startswith(
            "m2f_batch.train."
        ):
            assert "from transformers" not in text, name


def test_light_modules_load_nothing_heavy():
    code = f"""
import importlib, sys
for name in {LIGHT!r}:
    importlib.import_module(name)
    loaded = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]
    assert not loaded, (name, loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr


def test_the_drivers_need_no_torch():
    code = (
        "import sys, m2f_batch.flow.job, m2f_batch.train.command; assert not {'torch', 'transformers'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr


def test_files_stay_small():
    sizes = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: size for name, size in sizes.items() if size > 400} == {}
