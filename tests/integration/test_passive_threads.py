"""Threads that wait for each other sleep in every process of ours that computes, as OpenMP itself says."""

import json
import os
import subprocess
import sys
from contextlib import closing
from functools import partial

import pytest
from conftest import PROJECT
from PIL import Image

from m2f_batch import cli, processes
from m2f_batch.commands import status
from m2f_batch.flow.crashes.isolated_child import START, Child

POLICY = "OMP_WAIT_POLICY"


def test_openmp_of_a_training_is_loaded_with_sleeping_threads(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    square = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [4, 4, 8, 8], "area": 64}
    tree = {
        "images": [{"id": 1, "file_name": "a.png", "width": 32, "height": 32}],
        "annotations": [square | {"segmentation": [[4, 4, 12, 4, 12, 12, 4, 12]]}],
        "categories": [{"id": 1, "name": "square"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(tree))
    wrong = f"model.backbone={tmp_path / 'none'}"  # refused once torch is there
    places = [str(tmp_path / "a.json"), str(tmp_path / "tuned")]
    done = subprocess.run(
        [sys.executable, "-m", "m2f_batch.cli", "finetune", *places, "--set", wrong, "--set", "train.steps=1"],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env={name: value for name, value in os.environ.items() if name != POLICY} | {"OMP_DISPLAY_ENV": "VERBOSE"},
    )
    assert done.returncode == 2 and "model.backbone" in done.stderr, done.stderr
    # of the policy libgomp shows PASSIVE where nothing was set, too; what it makes of that is 300000 rounds
    told = [line.strip() for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    assert told and set(told) == {"GOMP_SPINCOUNT = '0'"}, done.stderr


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_what_the_user_set_stays(monkeypatch, given, expected):
    monkeypatch.setenv(POLICY, given or "")  # so that it is put back
    if given is None:
        monkeypatch.delenv(POLICY)
    seen = []
    monkeypatch.setattr(status, "run", lambda _: seen.append(os.environ[POLICY]) or 0)
    assert cli.main(["status", "anywhere"]) == 0
    assert seen == [expected]


def test_a_child_process_of_a_library_user_gets_it_too(monkeypatch):
    monkeypatch.delenv(POLICY, raising=False)
    with closing(Child(partial(partial, os.getenv), {START: 60.0, "decode": 60.0})) as child:
        assert child.ask(POLICY, "decode") == "PASSIVE"
    assert POLICY not in os.environ


def test_nothing_is_set_by_importing():
    code = f"import m2f_batch.cli, m2f_batch.flow.crashes.isolated_child, os; print(os.environ.get({POLICY!r}))"
    plain = {name: value for name, value in os.environ.items() if name != POLICY}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, env=plain)
    assert done.stdout == "None\n", done.stderr
    assert processes.PASSIVE == {POLICY: "PASSIVE"}
