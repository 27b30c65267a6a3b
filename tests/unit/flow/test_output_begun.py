"""A run begins on an OUTPUT that others may use meanwhile, and leaves theirs alone."""

import json
from pathlib import Path

import pytest
from support.output_jobs import done, job_of, label

from m2f_batch.errors import RunError, UsageError
from m2f_batch.flow.attempt.hold_output import held
from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.flow.attempt.output_state import (
    decide,
    read_output_state,
    work_of,
)
from m2f_batch.messages.events import Events
from m2f_batch.runs.hold import leave
from m2f_batch.storage.store import Fenced


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six files that look like images to a listing."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(b"x" * (number + 1))
    return folder


def test_overwrite_goes_on_with_what_it_began(images: Path) -> None:
    job = done(images)
    over = job_of(images, output={"overwrite": True})
    work = work_of(over, read_output_state(job.run), "cpu")
    assert work.over and work.info["run_id"] != read_output_state(job.run).run_id
    label(over, work, files=1, finish=False)
    assert len(job.run.annotation_files()) == 1 and not job.run.is_finished()
    assert job.run.read_info()["run_id"] == work.info["run_id"]
    again = work_of(over, read_output_state(job.run), "cpu")
    assert not again.over and again.info["run_id"] == work.info["run_id"] and again.info["attempts"] == 2
    elsewhere = job_of(images, output={"overwrite": True}, postprocess={"score_threshold": 0.3})
    assert work_of(elsewhere, read_output_state(job.run), "cpu").over
    label(over, again)
    assert work_of(over, read_output_state(job.run), "cpu").over, "finished, it is made anew"


def test_begin_again_deletes_nothing_of_its_own(images: Path) -> None:
    """A gate that died is started again, with the same work."""
    done(images)
    over = job_of(images, output={"overwrite": True})
    work = work_of(over, read_output_state(over.run), "cpu")
    label(over, work, files=2, finish=False)
    assert begin(over.run, work).images == 4
    assert len(over.run.annotation_files()) == 2


def test_another_run_that_began_meanwhile_is_not_overwritten(images: Path) -> None:
    done(images)
    over = job_of(images, output={"overwrite": True})
    other = job_of(images, output={"overwrite": True})
    label(other, work_of(other, read_output_state(other.run), "cpu"))
    run_id = read_output_state(other.run).run_id
    with (
        pytest.raises(UsageError, match=r"output\.uri: another run has just begun in .*/run; give another OUTPUT"),
        held(over, decide(over, "cpu"), "cpu", Events("text")),
    ):
        pass
    assert read_output_state(other.run).run_id == run_id and other.run.is_finished()
    assert json.loads((images.parent / "run/_state/lease/000000001.json").read_text())["released"]


def test_a_run_that_did_not_begin_leaves_no_trace(images: Path) -> None:
    job = job_of(images)
    with pytest.raises(RunError, match="no model"), held(job, decide(job, "cpu"), "cpu", Events("text")) as attempt:
        assert attempt.work.info["token"] == attempt.fence.token == 1
        raise RunError("no model")
    assert not (images.parent / "run").exists()


def test_who_lost_the_run_leaves_the_folders_of_the_next(images: Path) -> None:
    job = job_of(images)
    with held(job, decide(job, "cpu"), "cpu", Events("text")) as first:
        first.lease.release()
        with held(job, decide(job, "cpu"), "cpu", Events("text")) as second:
            with pytest.raises(Fenced):
                first.run.write("run.json", b"{}")
            with pytest.raises(Fenced):
                leave(job.run, first.lease, job.run.holds_run)
            second.run.write("_state/x", b"x")
            assert (images.parent / "run/_state/x").exists()
