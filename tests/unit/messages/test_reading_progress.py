"""Progress of reading: nothing while it is quick, a line now and then where it is not."""

import pytest

from m2f_batch.datasets import files
from m2f_batch.messages import reading_progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by a second whenever somebody looks at it."""
    seconds = iter(range(10**6))
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))


def test_a_line_after_some_seconds_and_then_now_and_then(clock, capsys):
    assert [*reading_progress.with_progress(range(40), 1234, "annotations")] == [*range(40)]
    said = capsys.readouterr().err.splitlines()
    assert said == [f"read {number} of 1,234 annotations" for number in (4, 19, 34)]


def test_every_reader_tells_through_rows_of(clock, capsys):
    rows = [*files.rows_of(lambda number: ({"at": number}, []), [*range(5)], lambda finding: None)]
    assert rows == [{"at": number} for number in range(5)]
    assert capsys.readouterr().err == "read 4 of 5 files of annotated images\n"


def test_what_is_quick_says_nothing(capsys):
    assert len([*reading_progress.with_progress(range(1000), 1000, "x")]) == 1000
    assert capsys.readouterr().err == ""
