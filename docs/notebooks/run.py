"""Runs the cells of a notebook in one process, and writes what they give into it.

    cd EMPTY_FOLDER && python PLACE/docs/notebooks/run.py PLACE/docs/notebooks/first-labels.ipynb

What a cell prints, and what its last line is worth, stand below it, as Jupyter would have them. A picture is a JPEG,
which is small. No Jupyter is needed.
"""

import ast
import base64
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

Notebook = dict[str, Any]


def run(notebook: Notebook, names: dict[str, Any]) -> None:
    """Run the code cells in order, in the namespace ``names``, and replace their outputs."""
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            cell["execution_count"] = number
            cell["outputs"] = _outputs("".join(cell["source"]), names, number)


def _outputs(source: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with redirect_stdout(printed):
        exec(compile(tree, f"<cell {number}>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"<cell {number}>", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())})
    if value is not None:
        shown: dict[str, Any] = {"text/plain": _lines(repr(value))}
        if hasattr(value, "_repr_jpeg_"):
            shown = {"image/jpeg": base64.b64encode(value._repr_jpeg_()).decode(), "text/plain": ["a picture"]}
        outputs.append({"data": shown, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
    return outputs


def _lines(text: str) -> list[str]:
    return text.rstrip("\n").splitlines(keepends=True)


def main(file: str) -> None:
    """Run a notebook in the working directory, and write it."""
    notebook = json.loads(Path(file).read_text())
    run(notebook, {"__name__": "__main__"})
    Path(file).write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
