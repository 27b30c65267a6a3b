"""Who may have an OUTPUT: the first, whoever may overwrite, and the same run again."""

import pyarrow as pa
import pytest

from m2f_batch.errors import UsageError
from m2f_batch.flow.claim import claim, is_ours
from m2f_batch.storage.run import INFO_KEYS, open_run

MANIFEST = pa.table({"image_id": [1], "uri": ["/p/a.jpg"], "version": ["v"]})


def info(run_id: str) -> dict:
    return {**dict.fromkeys(INFO_KEYS), "run_id": run_id}


def test_the_first_has_it_and_may_claim_again(tmp_path):
    run = open_run(str(tmp_path / "run"))
    assert not is_ours(run, info("a"))
    claim(run, info("a"), MANIFEST, overwrite=False)
    assert is_ours(run, info("a")) and not is_ours(run, info("b"))
    assert run.read_manifest().equals(MANIFEST)
    run.commit("0" * 32, MANIFEST)
    claim(run, info("a"), MANIFEST, overwrite=True)
    assert len(run.annotation_files()) == 1, "a task that is tried again deletes nothing of its own run"


def test_another_is_refused_unless_it_overwrites(tmp_path):
    run = open_run(str(tmp_path / "run"))
    claim(run, info("a"), MANIFEST, overwrite=False)
    run.commit("0" * 32, MANIFEST)
    with pytest.raises(UsageError, match=r"output\.uri: another run has just begun"):
        claim(run, info("b"), MANIFEST, overwrite=False)
    assert is_ours(run, info("a")) and len(run.annotation_files()) == 1
    claim(run, info("b"), MANIFEST, overwrite=True)
    assert is_ours(run, info("b")) and run.annotation_files() == []


def test_a_run_json_that_nobody_can_read_is_not_ours(tmp_path):
    run = open_run(str(tmp_path / "run"))
    run.store.write(run.path("run.json"), b"{")
    assert not is_ours(run, info("a"))
    with pytest.raises(UsageError):
        claim(run, info("a"), MANIFEST, overwrite=False)
    claim(run, info("a"), MANIFEST, overwrite=True)
    assert is_ours(run, info("a"))
