"""One process holds OUTPUT of a run or of a training: who comes second is told so, and all is given back."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.memory_store import Killed, MemoryStore

from m2f_batch.errors import RunError, UsageError
from m2f_batch.runs import lease as leases
from m2f_batch.runs.directory import RunDirectory, open_directory
from m2f_batch.runs.held_folder import Fence, HeldFolder, open_folder
from m2f_batch.runs.hold import hold_folder, leave
from m2f_batch.runs.lease import newest
from m2f_batch.storage.store import Fenced

both = pytest.mark.parametrize("opened", [open_folder, open_directory])
Opened = Callable[[str], HeldFolder]


def yes() -> bool:
    return True


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@both
def test_what_was_begun_keeps_a_released_lease_and_no_staging(opened: Opened, tmp_path: Path) -> None:
    with hold_folder(opened(f"{tmp_path}/out"), 60, print, yes) as lease:
        staging = tmp_path / "out/_state/tmp/000000001"
        assert lease.token == 1 and staging.is_dir()
        (tmp_path / "out/x").write_text("x")
    assert files(tmp_path / "out") == ["_state/lease/000000001.json", "x"]
    assert not staging.parent.exists()
    assert json.loads((tmp_path / "out/_state/lease/000000001.json").read_text())["released"]
    with hold_folder(opened(f"{tmp_path}/out"), 60, print, yes) as lease:
        assert lease.token == 2


@both
@pytest.mark.parametrize("mine", [False, True], ids=["new", "there"])
def test_what_did_not_begin_leaves_no_trace(opened: Opened, tmp_path: Path, mine: bool) -> None:
    output = tmp_path / "out"
    if mine:
        output.mkdir()
        (output / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="no model"), hold_folder(opened(str(output)), 60, print, lambda: False):
        raise RunError("no model")
    assert files(tmp_path) == (["out/thesis.txt"] if mine else [])
    assert output.exists() == mine and not (output / "_state").exists()


@both
def test_a_second_process_is_refused_and_writes_nothing(opened: Opened, tmp_path: Path) -> None:
    with hold_folder(opened(str(tmp_path)), 60, print, yes):
        before = files(tmp_path)
        refused = pytest.raises(UsageError, match=r"output\.uri: .* is held by another run, process \d+ on ")
        with refused, hold_folder(opened(str(tmp_path)), 60, print, yes):
            pass
        assert files(tmp_path) == before


@both
def test_who_lost_the_folder_leaves_it_to_the_next(opened: Opened, tmp_path: Path) -> None:
    folder = opened(str(tmp_path))
    with hold_folder(folder, 60, print, yes) as first:
        first.release()
        with hold_folder(folder, 60, print, yes) as second:
            with pytest.raises(Fenced):
                leave(folder, first, yes)
            assert (tmp_path / f"_state/tmp/{second.token:09d}").is_dir()


@pytest.mark.parametrize("kind", [HeldFolder, RunDirectory])
def test_after_a_kill_at_any_request_the_next_process_holds_the_folder(
    kind: type[HeldFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_is_dead_here", lambda held: True)  # who was killed is seen to be dead
    killed = 0
    for moment in range(20):
        folder, left = kind("m/out", MemoryStore()), [None] * moment

        def request(left: list[None] = left) -> None:
            if not left:
                raise Killed
            left.pop()

        def has_begun(folder: HeldFolder = folder) -> bool:
            return folder.store.exists(folder.path("x"))

        store = folder.store
        assert isinstance(store, MemoryStore)
        store.before_write = request
        try:
            with hold_folder(folder, 60, print, has_begun) as lease:
                replace(folder, fence=Fence(lease.token, "")).write("x", b"1")
        except Killed:
            killed += 1
        is_over, store.before_write = bool(left), lambda: None
        with hold_folder(folder, 60, print, has_begun) as lease:
            ours = replace(folder, fence=Fence(lease.token, ""))
            ours.write("x", b"2")
            if lease.token > 1:
                with pytest.raises(Fenced):
                    replace(folder, fence=Fence(lease.token - 1, "")).write("x", b"1")
        last = newest(store, folder.lease_folder)
        assert last is not None and last.released and store.read(folder.path("x")) == b"2"
        if is_over:
            break
    assert killed >= 3, "the lease, the file, and the release"
