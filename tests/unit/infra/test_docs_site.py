"""The check of a built site finds a link or an anchor that is not there, and what a page loads from elsewhere."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

SCRIPT = PROJECT / "infra" / "docs" / "check_site.py"
faults = runpy.run_path(str(SCRIPT))["faults"]
PAGE = '<html><body id="top"><a href="b/other.html#here">x</a><script src="_static/a.js"></script>{}</body></html>'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for folder in ("b", "_static"):
        (tmp_path / folder).mkdir()
    (tmp_path / "b" / "other.html").write_text('<p id="here"><a href="../index.html#top">back</a></p>')
    (tmp_path / "_static" / "a.js").write_text("")
    (tmp_path / "_static" / "a.css").write_text("p { background: url('data:image/png;base64,AAAA') }")
    (tmp_path / "index.html").write_text(PAGE.format('<a href="https://example.com/">elsewhere</a>'))
    return tmp_path


def test_a_whole_site_has_no_fault(site: Path) -> None:
    assert faults(site) == []


@pytest.mark.parametrize(
    "added, said",
    [
        ('<a href="b/nothing.html">x</a>', "b/nothing.html leads to no file"),
        ('<a href="b">x</a>', "b leads to no file"),
        ('<a href="b/other.html#there">x</a>', "b/other.html#there leads to no anchor"),
        ('<a href="#there">x</a>', "#there leads to no anchor"),
        ('<img src="nothing.png">', "nothing.png leads to no file"),
        ('<img src="https://example.com/a.png">', "loads https://example.com/a.png"),
        ('<script src="//example.com/a.js"></script>', "loads //example.com/a.js"),
        ('<link rel="stylesheet" href="https://example.com/a.css">', "loads https://example.com/a.css"),
        ('<iframe src="https://example.com/"></iframe>', "loads https://example.com/"),
        ("<style>@import 'https://example.com/f.css';</style>", "loads https://example.com/f.css"),
    ],
)
def test_a_fault_is_found(site: Path, added: str, said: str) -> None:
    (site / "index.html").write_text(PAGE.format(added))
    assert faults(site) == [f"index.html: {said}"]


def test_a_font_from_elsewhere_is_found(site: Path) -> None:
    (site / "_static" / "a.css").write_text("@font-face { src: url(https://example.com/f.woff2) }")
    assert faults(site) == ["_static/a.css: loads https://example.com/f.woff2"]


def test_the_command_ends_with_1_where_there_is_no_site(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (1, f"{tmp_path}: no page\n")
