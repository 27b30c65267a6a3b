"""Makes Markdown of texts and tables, as GitHub and the site's generator both read it."""

import re
from collections.abc import Iterable, Sequence
from inspect import cleandoc

# what is code in a plain text: flags, URIs, variables, config keys, names of fields in braces
CODE = re.compile(
    r"""(?<![\w`/.-])(
        --set\ [\w.]+=\w+
      | --[a-z][a-z-]+
      | [a-z][a-z0-9]*://(?:[\w./:*-]*[\w/])?
      | (?:/dev/|~/)[\w./*-]*\w
      | [A-Z][A-Z0-9]*_[A-Z0-9_]+(?:=\w+)?
      | (?:input|model|preprocess|postprocess|compute|output|run|data|augment|train|storage)
        \.[a-z][a-z0-9_.]*[a-z0-9](?:=\w+|\.\*)?
      | \{[a-z_]+(?:,\ [a-z_]+)*\}
      | _\w+
    )(?![\w`])""",
    re.VERBOSE,
)
LISTED = re.compile(r"(?:Attributes|Args|Arguments|Returns|Raises):")  # the heads of lists in docstrings
MADE = "This page is made by `make reference` from the code."


def text_of(text: str) -> str:
    """Return a plain text as Markdown: what is code is marked as code, and nothing else means anything.

    >>> print(text_of("as data.train; --set 'a=*' or [x, y] in _mask, s3://bucket/prefix/ and `data.val`"))
    as `data.train`; `--set` 'a=\\*' or [x, y] in `_mask`, `s3://bucket/prefix/` and `data.val`
    """
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if part.startswith("`") else _marked(part) for part in parts)


def _marked(text: str) -> str:
    """Return a text without code in it, with what is code marked as such, and the rest escaped."""
    parts = re.split(r"(`[^`]+`)", CODE.sub(r"`\1`", text))
    return "".join(part if part.startswith("`") else re.sub(r"([*<\\])", r"\\\1", part) for part in parts)


def code(text: object) -> str:
    """Return a text as code."""
    return f"`{text}`"


def sentence(text: str) -> str:
    """Return a text with a capital letter and a full stop."""
    text = " ".join(text.split())
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ":", "?")) else ".") if text else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. A bar within a cell is escaped, also in code, as GitHub wants it."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def joined(*blocks: str) -> str:
    """Return blocks of a page with an empty line between them, without those that are empty."""
    return "\n\n".join(block.strip("\n") for block in blocks if block.strip()) + "\n"


def reflowed(docstring: str) -> str:
    """Return a docstring, in which double backticks mark code, as Markdown: its examples as code, its lists as lists.

    >>> print(reflowed("It takes ``x``.\\n\\nAttributes:\\n    x: of *all*.\\n    y: another."))
    It takes `x`.
    <BLANKLINE>
    - `x`: of \\*all\\*.
    - `y`: another.
    """
    return "\n\n".join(map(_block, re.split(r"\n\s*\n", cleandoc(docstring))))


def _block(block: str) -> str:
    """Return a paragraph of a docstring."""
    lines = block.splitlines()
    if lines[0].startswith(">>>"):
        return f"```python\n{block}\n```"
    if LISTED.fullmatch(lines[0]):
        return _items(lines[1:], ": ")
    if lines[0].startswith("    "):
        return _items(lines, "  ") if "  " in lines[0].strip() else block
    return _of_docstring(block)


def _items(lines: Sequence[str], separator: str) -> str:
    """Return a list of names with what is said of each. A line that is indented further goes on with the one before."""
    items: list[str] = []
    for line in lines:
        if line.startswith("     "):
            items[-1] += f"\n  {_of_docstring(line.strip())}"
        else:
            name, _, text = line.strip().partition(separator)
            items.append(f"- `{name}`: {_of_docstring(text.strip())}")
    return "\n".join(items)


def _of_docstring(text: str) -> str:
    return text_of(re.sub(r"``([^`]+)``", r"`\1`", text))
