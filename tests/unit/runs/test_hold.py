"""One process holds OUTPUT of a run or of a training: who comes second is told so, and all is given back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from m2f_batch.errors import RunError, UsageError
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.held_folder import HeldFolder, open_folder
from m2f_batch.runs.hold import held_folder, leave
from m2f_batch.storage.store import Fenced

pytestmark = pytest.mark.parametrize("opened", [open_folder, open_directory])
Opened = Callable[[str], HeldFolder]


def yes() -> bool:
    return True


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_what_was_begun_keeps_a_released_lease_and_no_staging(opened: Opened, tmp_path: Path) -> None:
    with held_folder(opened(f"{tmp_path}/out"), 60, print, yes) as lease:
        staging = tmp_path / "out/_state/tmp/000000001"
        assert lease.token == 1 and staging.is_dir()
        (tmp_path / "out/x").write_text("x")
    assert files(tmp_path / "out") == ["_state/lease/000000001.json", "x"]
    assert not staging.parent.exists()
    assert json.loads((tmp_path / "out/_state/lease/000000001.json").read_text())["released"]
    with held_folder(opened(f"{tmp_path}/out"), 60, print, yes) as lease:
        assert lease.token == 2


@pytest.mark.parametrize("mine", [False, True], ids=["new", "there"])
def test_what_did_not_begin_leaves_no_trace(opened: Opened, tmp_path: Path, mine: bool) -> None:
    output = tmp_path / "out"
    if mine:
        output.mkdir()
        (output / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="no model"), held_folder(opened(str(output)), 60, print, lambda: False):
        raise RunError("no model")
    assert files(tmp_path) == (["out/thesis.txt"] if mine else [])
    assert output.exists() == mine and not (output / "_state").exists()


def test_a_second_process_is_refused_and_writes_nothing(opened: Opened, tmp_path: Path) -> None:
    with held_folder(opened(str(tmp_path)), 60, print, yes):
        before = files(tmp_path)
        refused = pytest.raises(UsageError, match=r"output\.uri: .* is held by another run, process \d+ on ")
        with refused, held_folder(opened(str(tmp_path)), 60, print, yes):
            pass
        assert files(tmp_path) == before


def test_who_lost_the_folder_leaves_it_to_the_next(opened: Opened, tmp_path: Path) -> None:
    folder = opened(str(tmp_path))
    with held_folder(folder, 60, print, yes) as first:
        first.release()
        with held_folder(folder, 60, print, yes) as second:
            with pytest.raises(Fenced):
                leave(folder, first, yes)
            assert (tmp_path / f"_state/tmp/{second.token:09d}").is_dir()
