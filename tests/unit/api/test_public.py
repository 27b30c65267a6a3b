"""What ``import m2f_batch`` gives: lazily, to type checkers too, and each name with all that its docstring must say."""

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from types import FunctionType

import pytest
from conftest import PROJECT

import m2f_batch

INIT = PROJECT / "m2f_batch" / "__init__.py"
WANTED = {"Segmenter", "open_run", "segment", "finetune", "evaluate", "lint", "convert", "export", "verify"}
# what is called without a sentence of the caller about it
UNSAID = {"self", "cls"}


def test_the_names_that_were_promised_are_there():
    assert WANTED | {"__version__"} <= {*m2f_batch.__all__}
    assert {*m2f_batch.__all__} <= {*dir(m2f_batch)}
    for name in m2f_batch.__all__:
        assert getattr(m2f_batch, name) is not None
    assert re.fullmatch(r"\d+\.\d+\.\d+", m2f_batch.__version__)
    with pytest.raises(AttributeError, match="module 'm2f_batch' has no attribute 'Segmentor'"):
        m2f_batch.Segmentor  # noqa: B018


def test_type_checkers_see_what_is_loaded():
    block, at_run_time = [node for node in ast.parse(INIT.read_text()).body if isinstance(node, ast.If)]
    assert (ast.unparse(block.test), ast.unparse(at_run_time.test)) == ("TYPE_CHECKING", "not TYPE_CHECKING")
    seen = {
        (alias.asname or alias.name, node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    loaded = {(name, module) for module, names in m2f_batch._MODULES.items() for name in names}
    assert seen == loaded | {("__version__", "m2f_batch.version")}
    assert {name for name, _ in seen} == {*m2f_batch.__all__}
    assert m2f_batch.__all__ == sorted(m2f_batch.__all__)
    assert (PROJECT / "m2f_batch" / "py.typed").exists()


def test_the_import_loads_nothing_heavy():
    code = """
import sys
import m2f_batch
def loaded(*names): return [name for name in names if name in sys.modules]
assert not loaded("torch", "ray", "transformers", "pyarrow", "numpy", "PIL", "pydantic"), loaded("numpy", "pydantic")
assert m2f_batch.__version__ and len(dir(m2f_batch)) > 20 and not loaded("pyarrow")
m2f_batch.open_run, m2f_batch.export, m2f_batch.verify, m2f_batch.evaluate, m2f_batch.lint, m2f_batch.to_supervision
assert not loaded("torch", "ray", "transformers")
m2f_batch.segment, m2f_batch.finetune, m2f_batch.plot
assert not loaded("torch", "ray", "transformers")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr


def documented() -> Iterator[tuple[str, object, str]]:
    """Every public name, every public method of it, and every dataclass that one returns: name, thing, whose doc."""
    things = {name: getattr(m2f_batch, name) for name in m2f_batch.__all__ if name != "__version__"}
    returned: dict[str, object] = {}
    for thing in things.values():
        if isinstance(thing, FunctionType):
            kind = inspect.signature(thing).return_annotation
            for each in (kind, typing.get_origin(kind), *typing.get_args(kind)):
                if dataclasses.is_dataclass(each) and isinstance(each, type):
                    returned[each.__name__] = each
    for name, thing in (things | returned).items():
        yield name, thing, ""
        if isinstance(thing, type):
            for method, value in vars(thing).items():
                value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
                if isinstance(value, FunctionType) and (not method.startswith("_") or method == "__call__"):
                    yield f"{name}.{method}", value, inspect.getdoc(thing) or ""


DOCUMENTED = [*documented()]


def explained(text: str) -> set[str]:
    """Names with an entry of their own, below ``Args:`` or ``Attributes:``, or that a sentence names as such."""
    return {*re.findall(r"^ {4}(\w+): ", text, re.MULTILINE)} | {*re.findall(r"``(\w+)=?``", text)}


@pytest.mark.parametrize("name, thing, of_class", DOCUMENTED, ids=[name for name, _, _ in DOCUMENTED])
def test_a_public_name_says_all_that_a_caller_needs(name: str, thing: object, of_class: str):
    text = inspect.getdoc(thing) or ""
    assert re.match(r"[A-Z].*\.", text), "a first line that is a sentence"
    if isinstance(thing, type) and dataclasses.is_dataclass(thing):
        fields = {field.name for field in dataclasses.fields(thing)}
        assert fields - explained(text) == set(), "fields that nobody explains"
    signature = inspect.signature(thing.__init__ if isinstance(thing, type) else thing)  # type: ignore[misc, arg-type]
    if isinstance(thing, FunctionType):
        arguments = {*signature.parameters} - UNSAID
        assert arguments - explained(text) - explained(of_class) == set(), "arguments that nobody explains"
    if isinstance(thing, FunctionType) and re.search(r"\braise |in_arguments|checked\(", inspect.getsource(thing)):
        assert re.search(r"\bRaises?\b", text), "what it raises"
    if re.search("NDArray|ImageLike", str(signature)) and isinstance(thing, FunctionType):
        assert "[H, W" in text or "[H, W" in of_class or "[N, H, W]" in text or "those of a call" in text, "shapes"


@pytest.mark.parametrize("name", sorted(WANTED | {"BatchSegmenter", "plot", "to_supervision"}))
def test_a_public_function_names_its_source(name: str):
    assert "Source:" in (inspect.getdoc(getattr(m2f_batch, name)) or "")


def test_the_walk_finds_methods_and_what_is_returned():
    names = {name for name, _, _ in DOCUMENTED}
    assert names >= {"Segmenter.__call__", "Segmenter.from_pretrained", "Segment.polygon", "Run.table"}
    assert names >= {"Outcome", "LintReport", "Converted", "Export", "Evaluation", "Verification", "Run"}
