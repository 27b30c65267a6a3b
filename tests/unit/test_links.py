"""The pages of the documents: each link leads to a file and to an anchor of GitHub. No site is built for it."""

import re
import runpy
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import PROJECT

CONF = runpy.run_path(str(PROJECT / "infra" / "docs" / "conf.py"))
PAGES = sorted({file for pattern in CONF["include_patterns"] for file in PROJECT.glob(pattern.replace("**", "**/*"))})
DOCUMENTS = [page for page in PAGES if page.is_relative_to(PROJECT / "docs")]
FENCED = re.compile(r"^(```+|~~~+).*?^\1`*[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]:\s+<?(\S+?)>?\s*$", re.MULTILINE)
HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*\s*$", re.MULTILINE)
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def name_of(page: Path) -> str:
    return page.relative_to(PROJECT).as_posix()


@cache
def prose(page: Path) -> str:
    """A page without its blocks of code."""
    text = FENCED.sub("", page.read_text())
    return re.sub(r"^(?: {4}|\t).*$", "", text, flags=re.MULTILINE)


def links(page: Path) -> list[str]:
    text = re.sub(r"(`+)[^`].*?\1", "", prose(page))  # code within a line
    return [first or second for first, second in LINK.findall(text)]


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading.

    >>> slug("`run.json`, and what *it* holds ..."), slug("[Where](a.md) to read_rows?")
    ('runjson-and-what-it-holds-', 'where-to-read_rows')
    """
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text).lower().replace(" ", "-")


@cache
def anchors(page: Path) -> list[str]:
    """The anchors of a page's headings, in their order."""
    return [slug(text) for _, text in HEADING.findall(prose(page))]


def fault_of(link: str, page: Path) -> str:
    """What is wrong with a link, nothing where it leads somewhere."""
    path, _, anchor = link.partition("#")
    if SCHEME.match(link):
        return ""
    target = page if not path else page.parent / unquote(path)
    if path.startswith("/") or not target.resolve().is_relative_to(PROJECT):
        return "is no path within the repository"
    if not target.is_file():
        return "is a folder: name a file" if target.is_dir() else "leads to no file"
    if anchor and (target.suffix != ".md" or unquote(anchor) not in anchors(target.resolve())):
        return "leads to no anchor"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert [f"{link} {why}" for link in links(page) if (why := fault_of(link, page))] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_has_one_title_and_no_anchor_twice(page: Path) -> None:
    assert [level for level, _ in HEADING.findall(prose(page))].count("#") == 1
    if page.is_relative_to(PROJECT / "docs"):
        assert sorted(set(anchors(page))) == sorted(anchors(page))


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_a_page_has_no_html(page: Path) -> None:
    """A generator and GitHub take other HTML."""
    text = re.sub(r"(`+)[^`].*?\1", "", prose(page), flags=re.DOTALL)
    assert re.findall(r"</?[a-z][^>]*>", text) == []


def test_each_page_is_in_the_navigation() -> None:
    shown = {page for pages in CONF["NAVIGATION"].values() for page in pages} | {CONF["root_doc"]}
    below = {name_of(page).removesuffix(".md") for page in PROJECT.glob("benchmarks/results/*.md")}
    pages = {name_of(page).removesuffix(".md") for page in PAGES}
    assert len(DOCUMENTS) > 25 and len(pages) > len(DOCUMENTS)
    assert pages - below == shown


@pytest.mark.parametrize(
    "link, why",
    [
        ("architecture.md#glossary", ""),
        ("../README.md", ""),
        ("../jobs/segment.yaml", ""),
        ("https://example.com/nothing", ""),
        ("architecture.md#glosary", "leads to no anchor"),
        ("../jobs/segment.yaml#input", "leads to no anchor"),
        ("architectures.md", "leads to no file"),
        ("../jobs", "is a folder: name a file"),
        ("/README.md", "is no path within the repository"),
        ("../../elsewhere.md", "is no path within the repository"),
    ],
)
def test_a_broken_link_is_found(link: str, why: str) -> None:
    assert fault_of(link, PROJECT / "docs" / "architecture.md") == why
