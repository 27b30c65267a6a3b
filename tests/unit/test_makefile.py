"""What the Makefile promises to run."""

import re
from collections import Counter

from conftest import PROJECT


def test_make_chaos_runs_each_file_with_what_takes_minutes() -> None:
    (recipe,) = re.findall(r"^chaos: \$.*\n((?:\t.*\n)+)", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    listed = {*re.findall(r"tests/\S+\.py", recipe.partition("CHAOS=all")[2])}
    files = [file for file in PROJECT.glob("tests/**/test_*.py") if re.search(r"\bLONG\b", file.read_text())]
    marked = {str(file.relative_to(PROJECT)) for file in files} - {"tests/unit/test_makefile.py"}
    assert "tests/chaos/test_nodes.py" in marked
    assert marked - listed == set()


def test_no_two_files_of_tests_have_one_name() -> None:
    """Pytest collects neither of two that are given to it at once."""
    names = Counter(file.name for file in PROJECT.glob("tests/**/test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
