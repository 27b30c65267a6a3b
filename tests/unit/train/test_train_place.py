"""OUTPUT of a training: what goes on, what is replaced, what is refused, and removals that are killed."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from support.train_jobs import job_of

from m2f_batch.errors import RunError, UsageError
from m2f_batch.runs.held_folder import HeldFolder, open_folder
from m2f_batch.storage.local import LocalStore
from m2f_batch.train.layout import complete
from m2f_batch.train.loop.validation import Best
from m2f_batch.train.output.hold_output import check_seen, held
from m2f_batch.train.output.output_state import check_place, goes_on
from m2f_batch.train.output.training_info import TrainingInfo, write_finished
from m2f_batch.train.start.job import TrainJob


class Killed(BaseException):
    """Nothing catches it, as nothing catches a SIGKILL."""


def work(job: TrainJob, *, checkpoint: int | None = None, finishes: bool = False) -> bool:
    """What a command does to OUTPUT, up to a checkpoint or to its end; whether there was nothing to do."""
    with held(job, print) as ours:
        if checkpoint is not None:
            for name in ("state.pt", "checkpoint.json"):
                ours.place.write(f"checkpoints/{checkpoint:09d}/{name}", b"{}")
            for name in ("metrics.jsonl", "config.json", "model.safetensors"):
                ours.place.write(name, b"{}")
        if finishes:
            write_finished(ours.place)
        return ours.is_finished


def told(output: Path) -> dict[str, Any]:
    return json.loads((output / "finetune.json").read_text())


def steps(output: Path) -> list[int]:
    return complete(open_folder(str(output)))


def test_other_settings_replace_what_has_no_checkpoint_yet(tmp_path: Path):
    """A mistake that is found late is corrected in the same OUTPUT."""
    work(job_of(tmp_path, freeze=["nothing.*"]))
    corrected = job_of(tmp_path)
    work(corrected)
    assert told(tmp_path)["facts"] == corrected.facts
    assert told(tmp_path)["attempts"] == 1


def test_other_settings_are_refused_once_there_is_a_checkpoint(tmp_path: Path):
    work(job_of(tmp_path), checkpoint=4)
    before = told(tmp_path)
    with pytest.raises(UsageError, match=r"holds a training with other settings \(train\)"):
        work(job_of(tmp_path, learning_rate=1e-3))
    assert (told(tmp_path), steps(tmp_path)) == (before, [4])


def test_the_same_command_goes_on(tmp_path: Path):
    work(job_of(tmp_path), checkpoint=4)
    assert not work(job_of(tmp_path))
    assert (told(tmp_path)["attempts"], steps(tmp_path)) == (2, [4])
    work(job_of(tmp_path), finishes=True)
    assert work(job_of(tmp_path)), "it is finished"


def test_overwrite_starts_anew_but_goes_on_where_it_was_killed(tmp_path: Path):
    work(job_of(tmp_path), checkpoint=4)  # unfinished, of the same settings, and not what is wanted
    work(job_of(tmp_path, overwrite=True), checkpoint=2)
    assert (told(tmp_path)["attempts"], steps(tmp_path)) == (1, [2])
    work(job_of(tmp_path, overwrite=True))  # the same command
    assert (told(tmp_path)["attempts"], steps(tmp_path)) == (2, [2])
    work(job_of(tmp_path, overwrite=True), finishes=True)
    assert not work(job_of(tmp_path, overwrite=True)), "what is finished is done again"
    assert (told(tmp_path)["attempts"], steps(tmp_path)) == (1, [])


@pytest.mark.parametrize("changed", [{}, {"learning_rate": 1e-3}], ids=["finished", "other settings"])
def test_overwrite_killed_at_any_moment_goes_on(changed: dict[str, Any], tmp_path: Path, monkeypatch):
    delete, count = HeldFolder.delete, 0
    left: list[int] = []

    def delete_some(place: HeldFolder, uris: Iterable[str]) -> None:
        for uri in uris:
            if not left:
                raise Killed
            left.pop()
            delete(place, [uri])

    for moment in range(100):
        output = tmp_path / str(moment)
        work(job_of(output), checkpoint=4, finishes=True)
        left[:] = [0] * moment
        with monkeypatch.context() as killing:
            killing.setattr(HeldFolder, "delete", delete_some)
            try:
                work(job_of(output, overwrite=True, **changed))
                break  # there was no more to delete
            except Killed:
                count += 1
        assert "finished_at" not in told(output)
        assert not goes_on(TrainingInfo.of(told(output)), job_of(output)), "what is half deleted is no training"
        work(job_of(output, overwrite=True, **changed))
        files = [str(file.relative_to(output)) for file in output.rglob("*") if file.is_file()]
        assert [name for name in files if not name.startswith("_state/")] == ["finetune.json"]
        assert "is_removed" not in told(output)
    assert count >= 5


def test_a_removal_that_was_killed_is_gone_on_with_by_any_command(tmp_path: Path, monkeypatch):
    work(job_of(tmp_path), checkpoint=4, finishes=True)

    def killed(place: HeldFolder, uris: Iterable[str]) -> None:
        raise Killed

    with monkeypatch.context() as killing, pytest.raises(Killed):
        killing.setattr(HeldFolder, "delete", killed)
        work(job_of(tmp_path, overwrite=True, seed=1))
    work(job_of(tmp_path, seed=2))
    assert (told(tmp_path)["attempts"], steps(tmp_path)) == (1, [])


def test_an_output_that_a_node_does_not_see_is_named(tmp_path: Path):
    work(job_of(tmp_path / "here"))
    check_seen(open_folder(str(tmp_path / "here")))
    with pytest.raises(RunError, match=r"output\.uri: what is written to .*/there is not to be seen on node "):
        check_seen(open_folder(str(tmp_path / "there")))


def test_what_is_not_ours_is_refused(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.txt is there, and is no training of ours"):
        check_place(job_of(tmp_path, overwrite=True))


def test_a_training_that_does_not_begin_leaves_no_trace(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="no training of ours"):
        work(job_of(tmp_path))
    assert [file.name for file in tmp_path.rglob("*")] == ["thesis.txt"]


def test_a_start_reads_finetune_json_before_the_lease_and_once_under_it(tmp_path: Path, monkeypatch):
    read, asked = LocalStore.read_entry, list[str]()

    def noted(store: LocalStore, uri: str) -> Any:
        asked.append(Path(uri).name)
        return read(store, uri)

    monkeypatch.setattr(LocalStore, "read_entry", noted)
    for finishes in (False, True, False):  # a first start, a resume, nothing to do
        asked.clear()
        job = job_of(tmp_path)
        check_place(job)
        with held(job, print) as ours:
            assert asked.count("finetune.json") == 2
            if finishes:
                write_finished(ours.place)


def test_the_best_validation_of_a_checkpoint_is_read_as_it_was_written():
    tree = {"step": 5, "AP": 0.25, "metrics": {"AP": 0.25, "AP50": None}, "classes": [{"id": 1, "AP": 0.25}]}
    best = Best.of(tree, "AP")
    assert (best.step, best.figure, best.tree) == (5, 0.25, tree)
