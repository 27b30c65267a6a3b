"""Progress of reading: nothing while it is quick, a line now and then where it is not."""

from collections.abc import Iterator

import pytest

from m2f_batch.datasets import files
from m2f_batch.datasets.findings import Finding, stop
from m2f_batch.messages import reading_progress
from m2f_batch.messages.notes import is_heard, notes_to


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by a second whenever somebody looks at it."""
    seconds = iter(range(10**6))
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What is heard of the reading."""
    lines: list[str] = []
    with notes_to(lines.append):
        yield lines


def test_a_line_after_some_seconds_and_then_now_and_then(clock, said):
    assert [*reading_progress.with_progress(range(40), 1234, "annotations")] == [*range(40)]
    assert said == [f"read {number} of 1,234 annotations" for number in (4, 19, 34)]


def test_every_reader_tells_through_rows_of(clock, said):
    rows = [*files.rows_of(lambda number: ({"at": number}, []), [*range(5)], lambda finding: None)]
    assert rows == [{"at": number} for number in range(5)]
    assert said == ["read 4 of 5 files of annotated images"]


def test_what_is_quick_says_nothing(said):
    assert len([*reading_progress.with_progress(range(1000), 1000, "x")]) == 1000
    assert said == []


def test_a_function_that_nobody_listens_to_prints_nothing(clock, capfd):
    note = Finding("annotation-id", "a.json", "1 id is 0")
    assert [*reading_progress.with_progress(range(40), 1234, "annotations")] == [*range(40)]
    stop(note)
    assert capfd.readouterr() == ("", "")
    assert not is_heard()
    outer: list[str] = []
    inner: list[str] = []
    with notes_to(outer.append), notes_to(inner.append):
        stop(note)
    with notes_to(None):
        assert not is_heard()
    assert (outer, inner) == (["note: a.json: 1 id is 0"], [])
