"""Reads what stands in the source files of the package, without importing them: many load torch or Ray."""

import ast
from functools import cache
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[3]
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@cache
def module(name: str) -> ast.Module:
    """Return the syntax tree of a module, by its name."""
    return ast.parse((PROJECT / name.replace(".", "/")).with_suffix(".py").read_text())


def docstring(name: str) -> str:
    """Return the docstring of a module."""
    return ast.get_docstring(module(name)) or ""


def constant(name: str, variable: str) -> Any:
    """Return the value of a module's variable that is a plain table."""
    for node in module(name).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == variable for target in targets):
            assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            return ast.literal_eval(node.value)
    raise LookupError(f"{name} has no {variable}")


def literal(name: str, expression: ast.expr) -> ast.expr:
    """Return an expression, or the plain value that it names in a module or in the one that it comes from."""
    if not isinstance(expression, ast.Name):
        return expression
    for node in module(name).body:
        if isinstance(node, ast.ImportFrom) and node.module and expression.id in {each.name for each in node.names}:
            return literal(node.module, expression)
    try:
        return ast.Constant(constant(name, expression.id))
    except (LookupError, ValueError):
        return expression


def definition(name: str, what: str) -> Definition:
    """Return a class or function of a module."""
    for node in module(name).body:
        if isinstance(node, Definition) and node.name == what:
            return node
    raise LookupError(f"{name} has no {what}")


def table_in(text: str, prefix: str) -> list[list[str]]:
    """Return the lines of a docstring's table that begin with a prefix, as cells, with what is continued joined.

    >>> table_in("Files:\\n\\n    RUN/a    first,\\n             and more\\n    RUN/b    second", "RUN/")
    [['RUN/a', 'first, and more'], ['RUN/b', 'second']]
    """
    rows: list[list[str]] = []
    for line in text.splitlines():
        cells = [cell for cell in line.strip().split("  ") if cell]
        if line.startswith(f"    {prefix}"):
            rows.append([cell.strip() for cell in cells])
        elif rows and line.startswith("     ") and cells:
            rows[-1][-1] += f" {line.strip()}"
        elif rows and not line.strip():
            break
    return rows
