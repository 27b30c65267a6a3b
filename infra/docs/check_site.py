"""Checks a built site: ``python infra/docs/check_site.py site``. It prints its faults, a line each, and ends with 1.

Each link leads to a file of the site and to an anchor of it, and no page loads anything from elsewhere. Links to other
sites are not followed.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ELSEWHERE = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
IN_STYLE = re.compile(r"""(?:url\(\s*|@import\s+)['"]?([^'")\s;]+)""", re.IGNORECASE)
LOADED = frozenset({"src", "srcset", "poster", "data", "action", "xlink:href"})


class Page(HTMLParser):
    """One page: the anchors that it has, the links that it shows, and the files that it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = IN_STYLE.findall("".join(re.findall(r"<style.*?</style>", text, re.DOTALL)))
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Take what a tag names."""
        for name, value in attributes:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value or "")
            elif name == "href" and tag == "a":
                self.links.append(value or "")
            elif name == "href" or name in LOADED:
                self.loads.append(value or "")


def faults(site: Path) -> list[str]:
    """Return what is wrong with a site, a line each."""
    pages = {file: Page(file.read_text()) for file in sorted(site.rglob("*.html"))}
    found = [] if pages else [f"{site}: no page"]
    for file, page in pages.items():
        name = file.relative_to(site)
        found += [f"{name}: loads {each}" for each in page.loads if ELSEWHERE.match(each)]
        near = [each for each in page.loads if not ELSEWHERE.match(each)]
        found += [f"{name}: {why}" for each in [*page.links, *near] if (why := fault_of(each, file, pages))]
    for file in sorted(site.rglob("*.css")):
        found += [
            f"{file.relative_to(site)}: loads {each}"
            for each in IN_STYLE.findall(file.read_text())
            if ELSEWHERE.match(each)
        ]
    return found


def fault_of(link: str, file: Path, pages: dict[Path, Page]) -> str:
    """Return what is wrong with a link of a page, nothing where it leads somewhere."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return ""
    target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    if not target.is_file():
        return f"{link} leads to no file"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors:
        return f"{link} leads to no anchor"
    return ""


if __name__ == "__main__":
    lines = faults(Path(sys.argv[1]).resolve())
    print("\n".join(lines), file=sys.stderr) if lines else None
    sys.exit(1 if lines else 0)
