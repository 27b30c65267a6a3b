"""The rooms of the package, held true: imports go down, rooms and files are small, heavy packages have few doors."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from conftest import PROJECT

PACKAGE = PROJECT / "m2f_batch"
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 400, 50
HEAVY = ("torch", "torchvision", "transformers", "ray", "boto3", "scipy")
# what may be loaded by a command line, a driver or a pure module
LIGHT = [
    "m2f_batch.cli",
    "m2f_batch.records",
    "m2f_batch.models.label_sets",
    "m2f_batch.config.loading",
    "m2f_batch.models.checkpoint",
    "m2f_batch.vision.pixels.geometry",
    "m2f_batch.vision.decode.image",
    "m2f_batch.vision.masks.rle",
    "m2f_batch.vision.label_settings",
    "m2f_batch.runs.directory",
    "m2f_batch.models.source",
    "m2f_batch.runs.inspect.verify",
    "m2f_batch.runs.inspect.status",
    "m2f_batch.exports.command",
    "m2f_batch.datasets.convert",
    "m2f_batch.evaluation.command",
    "m2f_batch.demo.scenes",
]


def modules() -> dict[str, Path]:
    files = [*PACKAGE.rglob("*.py"), *PROJECT.glob("jobs/*.py")]
    names = {file: ".".join(file.relative_to(PROJECT).with_suffix("").parts) for file in files}
    return {name: file for file, name in names.items() if file.name != "__init__.py"}


def imported(file: Path) -> set[str]:
    """The names of all modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


MODULES = modules()
IMPORTS = {name: imported(file) for name, file in MODULES.items()}
GRAPH = {name: names & MODULES.keys() for name, names in IMPORTS.items()}


def circles(graph: dict[str, set[str]]) -> Iterator[str]:
    """The first way found from each node back to itself."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[str]:
        if name in path:
            yield " -> ".join([*path[path.index(name) :], name])
        elif name not in done:
            for other in sorted(graph.get(name, ())):
                yield from visit(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        yield from visit(name, ())


def test_modules_import_each_other_in_no_circle():
    assert [*circles(GRAPH)] == []


def test_init_files_hold_nothing():
    assert all(path.read_text() == "" for path in PACKAGE.rglob("__init__.py"))


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
    sizes = {name: len(file.read_text().splitlines()) for name, file in MODULES.items()}
    assert {name: size for name, size in sizes.items() if size > LINES_OF_A_FILE} == {}


def test_functions_stay_small():
    sizes = {
        f"{name}.{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for name, file in MODULES.items()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: size for name, size in sizes.items() if size > LINES_OF_A_FUNCTION} == {}
