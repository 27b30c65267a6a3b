"""Makes the page of public names in Python, from their signatures and docstrings."""

import ast
import re
from collections.abc import Iterator

import m2f_batch
from reference_pages.markdown import MADE, joined, reflowed, table, text_of
from reference_pages.source import Definition, definition, literal

# what may be relied on, by what it is for: each name and its module
PUBLIC = {
    "Label in a process of your own": [
        ("Segmenter", "m2f_batch.vision.segmenter"),
        ("Segment", "m2f_batch.records"),
        ("plot", "m2f_batch.vision.pictures"),
        ("to_supervision", "m2f_batch.vision.detections"),
        ("BatchSegmenter", "m2f_batch.vision.batch_segmenter"),
    ],
    "Jobs": [
        ("segment", "m2f_batch.api.jobs"),
        ("finetune", "m2f_batch.api.jobs"),
        ("Outcome", "m2f_batch.result"),
        ("RunTotals", "m2f_batch.runs.info"),
        ("ImageCounts", "m2f_batch.runs.info"),
        ("TrainTotals", "m2f_batch.train.command"),
    ],
    "Runs": [
        ("open_run", "m2f_batch.api.runs"),
        ("Run", "m2f_batch.runs.reader"),
        ("RunInfo", "m2f_batch.runs.info"),
        ("verify", "m2f_batch.api.runs"),
        ("Verification", "m2f_batch.api.runs"),
        ("evaluate", "m2f_batch.api.runs"),
        ("Evaluation", "m2f_batch.api.runs"),
        ("export", "m2f_batch.api.runs"),
        ("Export", "m2f_batch.api.runs"),
    ],
    "Datasets": [
        ("lint", "m2f_batch.api.datasets"),
        ("LintReport", "m2f_batch.api.datasets"),
        ("convert", "m2f_batch.api.datasets"),
        ("Converted", "m2f_batch.datasets.convert"),
    ],
    "From logits to segments": [
        ("instance_segments", "m2f_batch.vision.postprocess"),
        ("panoptic_segments", "m2f_batch.vision.postprocess"),
        ("semantic_segments", "m2f_batch.vision.postprocess"),
    ],
    "Errors": [
        (name, "m2f_batch.errors")
        for name in ("ArgumentError", "UsageError", "RunError", "TransientError", "ImageError", "DecodeError")
    ],
}
SPECIAL = ("__call__",)  # methods that are public in spite of their names
DECORATORS = ("property", "cached_property", "classmethod")
WIDTH = 100  # of a line of code
# those that only the package itself calls
INTERNAL = frozenset(
    {"from_checkpoint", "label", "take_seconds", "check_not_listed"}
    | {"about", "with_hint", "with_field", "in_words", "of_all"}
)


def page() -> str:
    """Return reference/python.md."""
    names = [(name, where) for listed in PUBLIC.values() for name, where in listed]
    rows = [(f"[{name}](#{_anchor(name)})", text_of(_first(definition(where, name)))) for name, where in names]
    blocks = [
        block
        for title, listed in PUBLIC.items()
        for block in (f"## {title}", *(_name(name, where) for name, where in listed))
    ]
    return joined(
        "# Python",
        f"What may be imported, and relied on from release to release. {MADE}",
        table(["name", "what it is"], rows),
        *blocks,
    )


def _heading(name: str) -> str:
    """Return a heading whose anchor no other name has: anchors are in lower case."""
    twins = [
        other for listed in PUBLIC.values() for other, _ in listed if other.lower() == name.lower() and other != name
    ]
    return f"{name} (class)" if twins and name[0].isupper() else name


def _anchor(name: str) -> str:
    return _heading(name).lower().replace(" ", "-").replace("(", "").replace(")", "")


def _name(name: str, where: str) -> str:
    node = definition(where, name)
    if isinstance(node, ast.ClassDef):
        methods = [_fenced(_signature(each, where)) + "\n\n" + _doc(each) for each in _methods(node)]
        code = _class(node)
    else:
        methods, code = [], _signature(node, where)
    return joined(
        f"### {_heading(name)}",
        _fenced([f"from {'m2f_batch' if name in m2f_batch.__all__ else where} import {name}"]),
        _fenced(code),
        _doc(node),
        *methods,
    )


def _fenced(lines: list[str]) -> str:
    return "\n".join(["```python", *lines, "```"]) if lines else ""


def _class(node: ast.ClassDef) -> list[str]:
    """Return the head of a class and its fields."""
    bases = ", ".join(map(ast.unparse, node.bases))
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign) and not _is_private(each)]
    head = f"class {node.name}({bases}):" if bases else f"class {node.name}:"
    return [head, *(f"    {_unparsed(each)}" for each in fields)] if fields else [f"{head} ..."] if bases else []


def _is_private(node: ast.AnnAssign) -> bool:
    return isinstance(node.target, ast.Name) and node.target.id.startswith("_")


def _methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    for each in node.body:
        if not isinstance(each, ast.FunctionDef) or each.name in INTERNAL:
            continue
        if "overload" in map(ast.unparse, each.decorator_list):  # the method itself follows
            continue
        if each.name in SPECIAL or not each.name.startswith("_"):
            yield each


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, where: str) -> list[str]:
    """Return the lines of a signature, with the decorators that say how it is called."""
    kept = [f"@{text}" for each in node.decorator_list if (text := ast.unparse(each)) in DECORATORS]
    returns = f" -> {_unparsed(node.returns)}" if node.returns else ""
    arguments = [*_arguments(node.args, where)]
    whole = f"def {node.name}({', '.join(arguments)}){returns}: ..."
    if len(whole) <= WIDTH:
        return [*kept, whole]
    return [*kept, f"def {node.name}(", *(f"    {each}," for each in arguments), f"){returns}: ..."]


def _arguments(args: ast.arguments, where: str) -> Iterator[str]:
    """Yield the arguments of a function, one by one, as they are written."""
    named = args.posonlyargs + args.args
    defaults = [None] * (len(named) - len(args.defaults)) + [*args.defaults]
    for argument, default in zip(named, defaults, strict=True):
        yield _argument(argument, default and literal(where, default))
    if args.vararg or args.kwonlyargs:
        yield f"*{_argument(args.vararg, None)}" if args.vararg else "*"
    for argument, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        yield _argument(argument, default and literal(where, default))
    if args.kwarg:
        yield f"**{_argument(args.kwarg, None)}"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    kind = f": {_unparsed(argument.annotation)}" if argument.annotation else ""
    equals = " = " if kind else "="
    return argument.arg + kind + (f"{equals}{_unparsed(default)}" if default is not None else "")


def _unparsed(node: ast.AST) -> str:
    """Return an expression in double quotes."""
    return re.sub(r"'([^'\"\\]*)'", r'"\1"', ast.unparse(node))


def _doc(node: Definition) -> str:
    text = ast.get_docstring(node)
    return reflowed(text) if text else ""


def _first(node: Definition) -> str:
    """Return the first sentence of a docstring."""
    text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split()).replace("``", "`")
    return text.split(". ")[0].rstrip(".") + "."
