"""The notebook in docs as it is read: its cells are Python, and name what the package gives. Make chaos runs it."""

import ast
import inspect
import json
from importlib import import_module

import pytest
from conftest import PROJECT

import m2f_batch
from m2f_batch.api.settings import FinetuneSettings, SegmentSettings

FILE = PROJECT / "docs" / "notebooks" / "first-labels.ipynb"
CELLS = [cell for cell in json.loads(FILE.read_text())["cells"] if cell["cell_type"] == "code"]
TREES = [ast.parse("".join(cell["source"])) for cell in CELLS]
NODES = [node for tree in TREES for node in ast.walk(tree)]
SETTINGS = {"segment": SegmentSettings, "finetune": FinetuneSettings, "lint": FinetuneSettings}


def is_public(node: ast.expr) -> bool:
    """Whether it is an attribute of the package itself."""
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "m2f_batch"


def test_it_uses_public_names_alone():
    used = {node.attr for node in NODES if isinstance(node, ast.Attribute) and is_public(node)}
    assert used >= {"segment", "open_run", "Segmenter", "plot", "evaluate", "lint", "finetune"}
    assert used <= {*m2f_batch.__all__}
    imports = [
        node for node in NODES if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("m2f_batch")
    ]
    names = {(node.module, alias.name) for node in imports for alias in node.names}
    assert names == {("m2f_batch.demo.dataset", "write_dataset"), ("m2f_batch.demo.scenes", "MODEL")}, "but the scenes"
    assert all(hasattr(import_module(module), name) for module, name in names if module)


@pytest.mark.parametrize("call", [node for node in NODES if isinstance(node, ast.Call) and is_public(node.func)])
def test_its_arguments_are_taken(call: ast.Call):
    assert isinstance(call.func, ast.Attribute)
    taken = {*inspect.signature(getattr(m2f_batch, call.func.attr)).parameters}
    if call.func.attr in SETTINGS:
        taken |= SETTINGS[call.func.attr].__annotations__.keys()
    assert {word.arg for word in call.keywords if word.arg} <= taken


def test_what_each_cell_gives_stands_below_it():
    assert [bool(cell["outputs"]) for cell in CELLS] == [False] + [True] * (len(CELLS) - 1), "the first draws scenes"
    assert FILE.stat().st_size < 200_000, "it is a page that people load"
