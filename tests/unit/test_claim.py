"""Who may have an OUTPUT: the first, whoever may overwrite, and the same run again."""

import pyarrow as pa
import pytest
from conftest import DEMO_MODEL
from engines import config_of

from m2f_batch.errors import RunError, UsageError
from m2f_batch.flow.busy import Places
from m2f_batch.flow.claim import claim, is_ours
from m2f_batch.flow.job import _follow, check
from m2f_batch.flow.run_info import first_info
from m2f_batch.storage.run import INFO_KEYS, open_run

MANIFEST = pa.table({"image_id": [1], "uri": ["/p/a.jpg"], "version": ["v"]})


def info(run_id: str) -> dict:
    return {**dict.fromkeys(INFO_KEYS), "run_id": run_id}


def test_the_first_has_it_and_may_claim_again(tmp_path):
    run = open_run(str(tmp_path / "run"))
    assert not is_ours(run, info("a"))
    claim(run, info("a"), MANIFEST, over=None)
    assert is_ours(run, info("a")) and not is_ours(run, info("b"))
    assert run.read_manifest().equals(MANIFEST)
    run.commit("0" * 32, MANIFEST)
    claim(run, info("a"), MANIFEST, over="a")
    assert len(run.annotation_files()) == 1, "a task that is tried again deletes nothing of its own run"


def test_another_is_refused_unless_it_overwrites(tmp_path):
    run = open_run(str(tmp_path / "run"))
    claim(run, info("a"), MANIFEST, over=None)
    run.commit("0" * 32, MANIFEST)
    with pytest.raises(UsageError, match=r"output\.uri: another run has just begun"):
        claim(run, info("b"), MANIFEST, over=None)
    assert is_ours(run, info("a")) and len(run.annotation_files()) == 1
    with pytest.raises(UsageError, match=r"output\.uri: another run has just begun"):
        claim(run, info("b"), MANIFEST, over="an older one, which a third run has replaced meanwhile")
    assert is_ours(run, info("a")) and len(run.annotation_files()) == 1
    claim(run, info("b"), MANIFEST, over="a")
    assert is_ours(run, info("b")) and run.annotation_files() == []


def test_a_run_json_that_nobody_can_read_is_not_ours(tmp_path):
    run = open_run(str(tmp_path / "run"))
    run.store.write(run.path("run.json"), b"{")
    assert not is_ours(run, info("a"))
    with pytest.raises(UsageError):
        claim(run, info("a"), MANIFEST, over=None)
    claim(run, info("a"), MANIFEST, over="")
    assert is_ours(run, info("a"))


def test_a_run_that_lost_its_output_writes_nothing_there(tmp_path, scenes):
    """Another one overwrote it meanwhile."""
    job = check(config_of(scenes, tmp_path / "run", DEMO_MODEL))
    other = info("other")
    claim(job.run, other, MANIFEST, over=None)
    with pytest.raises(RunError, match=r"output\.uri: another run has taken"):
        _follow(job, first_info(job, "f"), lambda units: (unit for unit in ()), Places(), lambda: False)
    assert is_ours(job.run, other) and not job.run.is_finished()
