"""Reads the pages that people write of docs/: their blocks, by language, and the commands in these."""

import itertools
import re
import shlex
from collections.abc import Iterator
from functools import cache

from conftest import PROJECT

PAGES = [page.relative_to(PROJECT / "docs") for page in sorted((PROJECT / "docs").rglob("*.md"))]
TITLES = [page.as_posix() for page in PAGES if page.parts[0] != "reference"]  # the reference is made from the code
# what differs from run to run: moments, processes, seconds, rates; and folders
MOVING = re.compile(r"\d{4}-\d\d-\d\dT[\d:+.]+|process \d+ on \S+|[\d.]+ images/s|\b(in|over) [\d.]+ s\b|^seconds .*")
FOLDERS = re.compile(r"[^\s=]*/")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")
ENDS = frozenset({"|", ">", ">>", "<", "&", "&&"})  # of a command, within a line of a shell


def text_of(name: str) -> str:
    return (PROJECT / "docs" / name).read_text()


def blocks_of(text: str) -> list[tuple[str, str]]:
    """The language and the text of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    """The page and the text of each block in a language."""
    return [(name, block) for name in TITLES for lang, block in blocks_of(text_of(name)) if lang == language]


def shells_of(text: str) -> Iterator[str]:
    """Each block of a shell, and each run of indented lines that begins with a command."""
    yield from (block for language, block in blocks_of(text) if language == "sh")
    for block in re.findall(
        r"(?:^ {4}.*\n)+", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    ):
        if re.match(r" {4}(m2f-batch|python|pip|make) ", block):
            yield block


def lines_of(block: str) -> Iterator[list[str]]:
    """The words of each line of a shell, without variables that are set before its program, and as far as a pipe."""
    for line in block.replace("\\\n", " ").splitlines():
        words = itertools.dropwhile(lambda word: re.match(r"\w+=", word), shlex.split(line, comments=True))
        line_words = [*itertools.takewhile(lambda word: word not in ENDS, words)]
        if line_words:
            yield line_words


@cache
def commands() -> list[tuple[str, tuple[str, ...]]]:
    """The page and the words behind ``m2f-batch`` of each command."""
    found = [(name, words) for name in TITLES for block in shells_of(text_of(name)) for words in lines_of(block)]
    return [(name, tuple(words[1:])) for name, words in found if words[0].removeprefix(".venv/bin/") == "m2f-batch"]


def shape_of(line: str) -> str:
    """A line without its numbers, moments and folders.

    >>> shape_of("wrote   …/a/b.json: 24 images in 1.5 s")
    'wrote b.json: # images ~'
    """
    return " ".join(NUMBER.sub("#", FOLDERS.sub("", MOVING.sub("~", line))).split())


def numbers_of(line: str) -> list[float]:
    """The numbers of a line, but for those that differ from run to run."""
    return [float(number.replace(",", "")) for number in NUMBER.findall(FOLDERS.sub("", MOVING.sub("~", line)))]


def agree(shown: str, said: str, within: float = 0.0) -> bool:
    """Whether a line of a page is one that was said. Its numbers may differ by ``within``, of 1 or of themselves.

    >>> agree("ball  0.936 in 2 s", "ball 0.934  in 3 s", within=0.01), agree("ball  0.936 in 2 s", "ball 0.934 in 3 s")
    (True, False)
    """
    if shape_of(shown) != shape_of(said):
        return False
    pairs = zip(numbers_of(shown), numbers_of(said), strict=True)
    return all(abs(one - other) <= within * max(1.0, abs(one)) for one, other in pairs)
