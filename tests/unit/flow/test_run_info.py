"""run.json of Mask2Former runs is the one that commit 8d11079 wrote, before there were other families."""

import json
from pathlib import Path

import pytest
from conftest import PROJECT
from support.engines import config_of
from support.hand_made import make_model

from m2f_batch.flow.attempt.open_output import begin
from m2f_batch.flow.attempt.output_state import read_output_state, work_of
from m2f_batch.flow.job import check

# of Mask2Former on Cityscapes' things, instance, as ``begin`` of that commit wrote it
STORED = {size: PROJECT / "tests/old_runs" / f"8d11079_{size}.json" for size in ("checkpoint", "paper")}
LABELS = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
OF_THE_DAY = ("run_id", "versions", "plan", "started_at")


@pytest.mark.parametrize("size", STORED)
def test_run_json_of_a_mask2former_stays_as_it_was(size: str, tmp_path: Path) -> None:
    given = {"model": {"task": "instance"}, "compute": {"threads_per_actor": 2}}
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(b"x")
    model = make_model(tmp_path / "model", LABELS)
    job = check(config_of(images, tmp_path / "run", model, **given, preprocess={"size": size}))
    begin(job.run, work_of(job, read_output_state(job.run), "cpu"))

    expected = STORED[size].read_text()
    stored, now = json.loads(expected), json.loads((tmp_path / "run/run.json").read_text())
    now |= {key: stored[key] for key in OF_THE_DAY}
    text = json.dumps(now, indent=2, ensure_ascii=False).replace(str(tmp_path), "/of/the/test")
    assert text == expected.rstrip()
