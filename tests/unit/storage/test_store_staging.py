"""A writer whose staging folder was taken away is fenced, at any moment."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from m2f_batch.errors import TransientError
from m2f_batch.storage.places import open_store
from m2f_batch.storage.store import Fenced, Store


def _conditionally(store: Store, place: str) -> dict[str, Callable[[], Any]]:
    """What a holder does, from its folder."""
    there, own = store.stat(f"{place}/there"), f"{place}/tmp/1"
    assert there
    return {
        "write": lambda: store.write(f"{place}/new/a", b"1", staging=own),
        "write over": lambda: store.write(f"{place}/there", b"1", staging=own),
        "upload": lambda: store.upload(__file__, f"{place}/new/a", staging=own),
        "write_new": lambda: store.write_new(f"{place}/new/a", b"1", staging=own),
        "replace": lambda: store.replace(f"{place}/there", b"1", there.version, staging=own),
        "delete": lambda: store.delete([f"{place}/there"], staging=own),
    }


@pytest.mark.parametrize("act", ["write", "write over", "upload", "write_new", "replace", "delete"])
@pytest.mark.parametrize("moment", ["before", "while it moves the file", "not at all"])
def test_a_writer_whose_folder_was_taken_away_is_fenced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, moment: str
) -> None:
    """It was stopped between any two of its steps, for as long as you like."""
    store, place = open_store(str(tmp_path)), str(tmp_path)
    store.open_staging(f"{place}/tmp/1")
    store.write(f"{place}/there", b"old")
    action = _conditionally(store, place)[act]
    if moment == "not at all":
        action()
        assert sorted(os.listdir(f"{place}/tmp/1")) == []
        return
    if moment == "before":
        store.open_staging(f"{place}/tmp/2")
    else:

        def late(real: Any, source: str, target: str) -> None:
            if f"{place}/tmp/1" in (os.path.dirname(source), os.path.dirname(target)):
                monkeypatch.undo()
                store.open_staging(f"{place}/tmp/2")
            real(source, target)

        for name in ("link", "replace", "rename"):
            monkeypatch.setattr(os, name, partial(late, getattr(os, name)))
    with pytest.raises(Fenced, match="another run has taken over"):
        action()
    files = [str(path.relative_to(place)) for path in tmp_path.rglob("*") if path.is_file()]
    assert files == ["there"] and store.read(f"{place}/there") == b"old"
    assert os.listdir(f"{place}/tmp") == ["2"]
    store.write(f"{place}/there", b"new", staging=f"{place}/tmp/2")


def test_an_earlier_holder_takes_nothing_away_from_a_later_one(tmp_path: Path) -> None:
    """It was stopped between its lease and its first file."""
    store, place = open_store(str(tmp_path)), str(tmp_path)
    store.open_staging(f"{place}/tmp/000000002")
    with pytest.raises(Fenced):
        store.open_staging(f"{place}/tmp/000000001")
    assert os.listdir(f"{place}/tmp") == ["000000002"]
    assert store.write_new(f"{place}/a", b"x", staging=f"{place}/tmp/000000002")
    os.makedirs(f"{place}/tmp/000000001.gone")  # killed while it took one away
    store.open_staging(f"{place}/tmp/000000010")
    assert os.listdir(f"{place}/tmp") == ["000000010"]
    store.close_staging(f"{place}/tmp/000000010")
    store.close_staging(f"{place}/tmp/000000010")
    assert os.listdir(f"{place}/tmp") == []


def test_a_folder_that_is_pruned_meanwhile_is_a_passing_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, place, real = open_store(str(tmp_path)), str(tmp_path), os.link
    store.open_staging(f"{place}/tmp/1")

    def link(source: str, target: str) -> None:
        store.prune(f"{place}/parts")
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(TransientError):
        store.write_new(f"{place}/parts/f/a", b"x", staging=f"{place}/tmp/1")
    monkeypatch.undo()
    assert store.write_new(f"{place}/parts/f/a", b"x", staging=f"{place}/tmp/1")
    store.prune(f"{place}/parts")
    assert store.exists(f"{place}/parts/f/a"), "only empty folders go"
