"""Checkpoints: whole or not there, the same after reading, the old ones gone but for the best."""

import os
import threading

import pytest
import torch

from m2f_batch.errors import RunError
from m2f_batch.runs.held_folder import Fence, open_folder
from m2f_batch.storage.store import Fenced
from m2f_batch.train.layout import complete
from m2f_batch.train.output.checkpoints import Writer, prune, read, snapshot, write


@pytest.fixture(params=["disk", "s3"])
def place(request, tmp_path):
    if request.param == "disk":
        return open_folder(str(tmp_path / "tuned"))
    return open_folder(request.getfixturevalue("moto_s3").uri + "/tuned")


def state_of(step):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.full((1, 3), float(step))).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": None}


def names_in(place):
    folder = place.path("checkpoints/")
    return {entry.uri.removeprefix(folder) for entry in place.store.list(folder)}


def test_a_checkpoint_is_read_as_it_was_written(place):
    state = state_of(7)
    write(place, 7, state, {"best": {"step": 5, "AP": 0.25}})
    found, info = read(place, 7)
    assert info["best"] == {"step": 5, "AP": 0.25}
    assert info["step"] == 7
    torch.testing.assert_close(found, state, rtol=0, atol=0)
    torch.optim.AdamW(torch.nn.Linear(3, 2).parameters()).load_state_dict(found["optimizer"])


def test_what_has_no_marker_is_no_checkpoint(place, monkeypatch):
    write(place, 3, state_of(3), {})
    monkeypatch.setattr(type(place), "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write(place, 4, state_of(4), {})
    assert complete(place) == [3]


def test_old_ones_go_but_for_the_best(place):
    for step in (1, 2, 3, 4):
        write(place, step, state_of(step), {})
    prune(place, keep=2, best=1)
    assert complete(place) == [1, 3, 4]
    assert names_in(place) == {f"{step:09d}/{name}" for step in (1, 3, 4) for name in ("state.pt", "checkpoint.json")}


def test_what_kills_left_goes_with_the_next_one(place):
    state = b"a state without its marker"
    write(place, 2, state_of(2), {})
    for name in ("000000001/state.pt", "000000001/.5d3e.tmp", "000000003/state.pt"):
        place.write(f"checkpoints/{name}", state)
    write(place, 4, state_of(4), {})
    place.write("checkpoints/000000006/state.pt", state)  # it may be of a process that is ahead of this one
    place.write("checkpoints/000000001/mine.txt", b"a user's")
    prune(place, keep=2, best=None)
    whole = {f"{step:09d}/{name}" for step in (2, 4) for name in ("state.pt", "checkpoint.json")}
    assert names_in(place) == whole | {"000000006/state.pt", "000000001/mine.txt"}


def test_a_disk_gets_it_from_the_folder_that_the_next_attempt_removes(tmp_path, monkeypatch):
    place = open_folder(str(tmp_path / "tuned"), Fence(1, ""))
    place.store.write(f"{place.lease_folder}/000000001.json", b"{}")
    place.store.open_staging(place.staging)
    moves, move = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (moves.append((source, target)), move(source, target)))
    write(place, 1, state_of(1), {})
    assert {os.path.dirname(source) for source, _ in moves} == {place.staging}
    assert [os.path.basename(target) for _, target in moves] == ["state.pt", "checkpoint.json"]


def test_a_damaged_one_is_said(place):
    write(place, 1, state_of(1), {})
    uri = place.path("checkpoints/000000001/state.pt")
    place.store.write(uri, place.store.read(uri)[:-1])
    with pytest.raises(RunError, match=r"state\.pt has \d+ bytes instead of \d+; delete its folder"):
        read(place, 1)


def test_a_run_that_was_taken_over_writes_none(tmp_path):
    place = open_folder(str(tmp_path / "tuned"), Fence(1, ""))
    for token in (1, 2):
        place.store.write(f"{place.lease_folder}/{token:09d}.json", b"{}")
    with pytest.raises(Fenced):
        write(place, 1, state_of(1), {})
    assert complete(place) == []


def test_a_snapshot_does_not_follow_the_weights():
    model = torch.nn.Linear(2, 2)
    before = snapshot({"model": model.state_dict(), "steps": [1, (torch.ones(1), None)]})
    expected = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1)
    assert torch.equal(before["model"]["weight"], expected)
    assert before["steps"][1][1] is None


def test_writing_goes_on_beside_and_its_errors_come_back():
    started, go = threading.Event(), threading.Event()
    done = []

    def slow():
        started.set()
        assert go.wait(60)
        done.append("slow")

    with Writer() as writer:
        writer.submit(slow)
        assert started.wait(60)
        assert done == []
        go.set()
        writer.submit(lambda: done.append("next"))
    assert done == ["slow", "next"]

    def fails():
        raise RunError("no space")

    with pytest.raises(RunError, match="no space"), Writer() as writer:
        writer.submit(fails)
