"""Commands that the documents tell people to type exist, with their options."""

import re
from pathlib import Path

import pytest
from conftest import PROJECT

from m2f_batch.cli import main

DOCUMENTS = [PROJECT / "README.md", *PROJECT.glob("infra/**/*.md"), *PROJECT.glob("jobs/**/*.yaml")]
COMMAND = re.compile(r"(?:`|^ {4}|^#\s+|\.venv/bin/)m2f-batch ([a-z]+(?: [a-z]+)?)(\b[^`\n]*)", re.MULTILINE)


def commands(document: Path) -> set[tuple[str, str]]:
    """Each command named, and the options that stand behind it."""
    text = re.sub(r"\\\n[#\s]*", " ", document.read_text())
    return {
        (words, option)
        for words, rest in COMMAND.findall(text)
        for option in re.findall(r"(?<=\s)--[a-z][a-z-]+", rest.partition(" #")[0]) or [""]
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_commands_exist_with_their_options(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, option in commands(document):
        first, _, second = words.partition(" ")
        with pytest.raises(SystemExit) as ended:
            main([first, *([second] if first == "submit" and second else []), "--help"])
        assert ended.value.code == 0, f"{document.name}: m2f-batch {words}"
        assert option in capsys.readouterr().out, f"{document.name}: m2f-batch {words} {option}"


def test_the_readme_names_commands() -> None:
    named = {words.partition(" ")[0] for words, _ in commands(PROJECT / "README.md")}
    assert {"segment", "submit", "evaluate", "lint", "explain", "verify", "status", "export"} <= named
