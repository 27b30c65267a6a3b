"""Makes the site of the documents: ``make docs``. Pages stay where they lie in the repository, and so do their links.

README.md is the first page. It is read on GitHub too, so the navigation of the site stands here.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PROJECT = Path(__file__).parents[2]
# each part of the site with its pages, in the order of reading
NAVIGATION = {
    "Start": ["docs/getting-started"],
    "Label": [
        f"docs/guides/{name}" for name in ("label-images", "storage", "models", "python", "explain", "export", "tables")
    ],
    "Train": [f"docs/guides/{name}" for name in ("datasets", "train", "evaluate")],
    "Scale": [
        *(f"docs/guides/{name}" for name in ("ray-cluster", "kubernetes", "nightly")),
        *("infra/SIZING", "infra/SECURITY", "infra/client/README"),
    ],
    "Coming from": [
        f"docs/guides/from-{name}" for name in ("transformers", "detectron2", "ultralytics", "mmsegmentation")
    ],
    "Reference": [
        f"docs/reference/{name}" for name in ("cli", "config", "python", "run-directory", "errors", "metrics")
    ],
    "Explanation": [f"docs/explanation/{name}" for name in ("semantics", "durability", "speed", "decoding")],
    "Project": ["docs/architecture", "CONTRIBUTING", "CHANGELOG", "benchmarks/README"],
}
RESULTS = "benchmarks/README"  # the page above those of benchmarks/results/

project = "m2f_batch"
copyright = "the m2f_batch developers"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**.md"),
    *("infra/*.md", "infra/client/README.md", "benchmarks/README.md", "benchmarks/results/*.md"),
]
# folders that hold no page: they need no walk
exclude_patterns = [".*", "site", "demo-run", "jobs", "m2f_batch", "tests", "infra/client/m2f_batch"]

myst_heading_anchors = 4  # GitHub's
suppress_warnings = ["misc.highlighting_failure"]  # the drawing of docs/architecture.md has a language of its own

html_theme = "furo"
html_title = "m2f_batch"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_use_index = False
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False


def setup(app: "Sphinx") -> None:
    """Add what the pages themselves do not say."""
    app.connect("source-read", add_navigation)
    app.connect("build-finished", add_index)


def add_navigation(app: "Sphinx", page: str, source: list[str]) -> None:
    """Add the navigation to the pages that have other pages below them."""
    if page == root_doc:
        source[0] += "".join(listed(title, pages) for title, pages in NAVIGATION.items())
    elif page == RESULTS:
        source[0] += listed("Results", ["results/*"])


def listed(title: str, pages: list[str]) -> str:
    """Return a list of pages as MyST has it."""
    lines = "\n".join(pages)
    return f"\n\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {title}\n\n{lines}\n```\n"


def add_index(app: "Sphinx", error: Exception | None) -> None:
    """Give the first page the name that web servers look for."""
    if error is None:
        shutil.copyfile(f"{app.outdir}/{root_doc}.html", f"{app.outdir}/index.html")
