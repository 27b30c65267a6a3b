"""The pages of docs/reference/ are what the code says, and its tables are what the code does."""

import ast
import difflib
import doctest
import importlib
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

import m2f_batch
from m2f_batch.errors import EXIT_CODES, REASONS, RunError, UsageError
from m2f_batch.records import COLUMNS, SCHEMA
from m2f_batch.result import FINAL
from m2f_batch.runs.info import KEYS
from m2f_batch.signals import STOPPED

REFERENCE = PROJECT / "docs" / "reference"
# what DecodeError says of masks, which have no rows
OF_MASKS = {"UnknownColor"}
sys.path.insert(0, str(PROJECT / "infra" / "docs"))  # its scripts are no package

from reference_pages.python_names import PUBLIC  # noqa: E402
from reference_pages.run_directory import columns_of  # noqa: E402
from write_reference import PAGES  # noqa: E402


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_code_says(name: str) -> None:
    written, made = (REFERENCE / name).read_text().splitlines(), PAGES[name]().splitlines()
    changed = [*difflib.unified_diff(written, made, "the page", "the code", lineterm="", n=0)]
    assert changed == [], "run `make reference`"


@pytest.mark.parametrize("name", ["config", "markdown", "source"])
def test_the_examples_of_the_scripts_are_true(name: str) -> None:
    flags = doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(importlib.import_module(f"reference_pages.{name}"), optionflags=flags).failed == 0


def test_there_is_no_other_page() -> None:
    assert {file.name for file in REFERENCE.iterdir()} == PAGES.keys()


def raised(file: Path) -> set[tuple[str, str]]:
    """The stage and the reason of each ImageError that a file makes of texts."""
    found: set[tuple[str, str]] = set()
    text = file.read_text()
    if "ImageError(" not in text and "DecodeError(" not in text:
        return found
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
            if node.func.id == "ImageError" and len(texts) > 1:
                found.add((texts[0], texts[1]))
            elif node.func.id == "DecodeError" and texts:
                found.add(("decode", texts[0]))
    return found


def test_each_reason_of_a_row_is_listed() -> None:
    files = (PROJECT / "m2f_batch").rglob("*.py")
    made = {pair for file in files for pair in raised(file) if pair[1].isidentifier()}
    listed = {(stage, name) for name, (stages, _) in REASONS.items() for stage in stages}
    assert {reason for _, reason in made} - REASONS.keys() == OF_MASKS
    assert {pair for pair in made if pair[1] not in OF_MASKS} <= listed
    by_variable = {"Corrupt", "Truncated", "Crashed", "Killed", "TimedOut"}
    assert REASONS.keys() - {reason for _, reason in made} <= by_variable


def test_exit_codes_are_listed() -> None:
    assert {UsageError.exit_code, RunError.exit_code, STOPPED} | FINAL <= EXIT_CODES.keys()


def test_each_column_has_a_meaning() -> None:
    assert [path for path, _ in columns_of(SCHEMA)] == [*COLUMNS]


def test_each_key_of_run_json_has_a_meaning() -> None:
    """As far as the file that makes it shows: ``token`` is added where the lease is taken."""
    tree = ast.parse((PROJECT / "m2f_batch" / "flow" / "attempt" / "run_info.py").read_text())
    makers = {each.name: each for each in tree.body if isinstance(each, ast.FunctionDef)}
    made = {
        key.value
        for name in ("first_info", "next_info", "_settings", "_counts", "info_now")
        for node in ast.walk(makers[name])
        if isinstance(node, ast.Return) and node.value is not None
        for dictionary in [node.value if isinstance(node.value, ast.Dict) else getattr(node.value, "right", None)]
        if isinstance(dictionary, ast.Dict)
        for key in dictionary.keys
        if isinstance(key, ast.Constant)
    }
    assert made | {"token"} == KEYS.keys()


def test_each_public_name_is_listed() -> None:
    assert {name for listed in PUBLIC.values() for name, _ in listed} >= {*m2f_batch.__all__} - {"__version__"}
