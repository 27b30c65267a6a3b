"""The language of the code, as far as a machine can see it: docstrings, names, spelling and the glossary."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PROJECT

FILES = sorted([*(PROJECT / "m2f_batch").rglob("*.py"), *(PROJECT / "jobs").glob("*.py")])
CLAUSE = re.compile(r"(What|Who|Whom|Whose|Where|How|Which|When|Whether|Why|That)\b")
# names of an older dialect, each with the glossary's word
DIALECT = {
    "steadily": "retry_before_run",
    "patiently": "retry_write",
    "standing": "output_state",
    "owners": "panoptic",
    "winners": "semantic",
    "outlines": "instance",
    "lean": "fast",
    "quick": "fast",
    "side": "split",
    "sides": "splits",
    "journal": "metrics_log",
    "told": "said",
}
BRITISH = re.compile(
    r"[a-z]*(labell(?:ed|ing)|cancell(?:ed|ing)|modell(?:ed|ing)|signall(?:ed|ing)|licence|colour|centre|behaviour"
    r"|neighbour|favour|honour|normalis|recognis|initialis|optimis|serialis|organis|minimis|maximis|summaris|synchronis"
    r"|analys(?:ed|ing)|judgement|catalogue|learnt|kerbs)[a-z]*",
    re.IGNORECASE,
)

# words that files and tools hold in this spelling: a finding's kind, a message in rows, the name of files
STORED = {"unlabelled", "labelling", "licence"}


def docstrings(file: Path) -> Iterator[tuple[int, bool, str]]:
    """The line, whether it is the module's, and the first line of each docstring of a file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), isinstance(node, ast.Module), text.splitlines()[0]


def names(file: Path) -> Iterator[tuple[int, str]]:
    """The line and the name of all that a file defines, and its own name."""
    yield 1, file.stem
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id


def place(file: Path, line: int) -> str:
    return f"{file.relative_to(PROJECT)}:{line}"


def test_docstrings_begin_with_a_sentence():
    clauses = [
        f"{place(file, line)}: {first}" for file in FILES for line, _, first in docstrings(file) if CLAUSE.match(first)
    ]
    assert clauses == []


def test_no_first_line_of_a_docstring_chains_sentences():
    chained = [f"{place(file, line)}: {first}" for file in FILES for line, _, first in docstrings(file) if ";" in first]
    assert chained == []


def test_each_module_has_a_docstring():
    silent = [
        str(file) for file in FILES if file.read_text() and not any(of_module for _, of_module, _ in docstrings(file))
    ]
    assert silent == []


def test_names_are_the_glossarys():
    old = [
        f"{place(file, line)}: {name} ({word}: say {DIALECT[word]})"
        for file in FILES
        for line, name in names(file)
        for word in name.lower().split("_")
        if word in DIALECT
    ]
    assert old == []


def british(text: str, file: Path) -> list[str]:
    return [
        f"{place(file, number)}: {found[0]}"
        for number, line in enumerate(text.splitlines(), 1)
        for found in BRITISH.finditer(line)
        if found[0].lower() not in STORED or (file.suffix == ".md" and file.parent.name != "reference")
    ]


def test_spelling_is_american():
    kinds = ("*.md", "docs/**/*.md", "infra/**/*.md", "jobs/**/*.yaml")
    documents = [file for kind in kinds for file in PROJECT.glob(kind)]
    assert [each for file in [*FILES, *documents] for each in british(file.read_text(), file)] == []


def test_the_glossary_is_in_order_and_names_each_word_once():
    text = (PROJECT / "docs" / "architecture.md").read_text()
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", text, re.MULTILINE)
    assert words == sorted(set(words))
    assert {"unit", "actor", "slot", "plan", "attempt", "lease", "fence", "view", "family"} <= set(words)


def test_the_last_commit_has_a_short_subject():
    asked = subprocess.run(["git", "log", "-1", "--format=%s"], cwd=PROJECT, capture_output=True, text=True)
    if asked.returncode:
        pytest.skip("this is no checkout of git")
    assert len(asked.stdout.strip()) <= 72
    assert ";" not in asked.stdout
