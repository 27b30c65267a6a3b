"""What the Makefile promises to run."""

import re

from conftest import PROJECT


def test_make_chaos_runs_each_file_with_what_takes_minutes() -> None:
    (recipe,) = re.findall(r"^chaos: \$.*\n((?:\t.*\n)+)", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    listed = {*re.findall(r"tests/\S+\.py", recipe.partition("CHAOS=all")[2])}
    files = [file for file in PROJECT.glob("tests/**/test_*.py") if re.search(r"\bLONG\b", file.read_text())]
    marked = {str(file.relative_to(PROJECT)) for file in files} - {"tests/unit/test_makefile.py"}
    assert "tests/chaos/test_nodes.py" in marked
    assert marked - listed == set()
