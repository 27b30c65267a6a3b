"""The whole job around stubs for decoding and the model: every row of 1,000 images, and actors without torch."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
from conftest import DEMO_MODEL
from support.engines import around_stubs, config_of, rows_of

from benchmarks.lib import stubs
from m2f_batch.flow import job
from m2f_batch.flow.unit import pieces
from m2f_batch.messages.events import Events, print_line
from m2f_batch.records import ImageRef, ok_row
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.inspect.verify import verify


def test_a_thousand_images_around_stubs(ray_session, tmp_path, monkeypatch):
    # as with a million images: tasks of several units each, and files of several units each
    monkeypatch.setattr(pieces, "MAX_BLOCKS", 10)
    log = tmp_path / "log"
    log.mkdir()
    names = [*stubs.uris(1000)]
    pq.write_table(pa.table({"uri": names[::-1]}), tmp_path / "in.parquet")
    sections = {"output": {"images_per_file": 95}, "compute": {"actors": 2, "threads_per_actor": 1}}
    config = config_of(tmp_path / "in.parquet", tmp_path / "run", DEMO_MODEL, **sections)
    assert job.segment(config, steps=stubs.steps(folder=str(log), pool=2)).exit_code == 0
    wanted = [ok_row(ImageRef(name, ""), stubs.SIZE_HW, [stubs.SEGMENT]) for name in sorted(names)]
    assert rows_of(tmp_path / "run") == wanted
    run = open_directory(str(tmp_path / "run"))
    assert [pq.read_metadata(file).num_rows for file in run.annotation_files()].count(95) == 10
    assert len(run.annotation_files()) == 11
    assert not any(run.store.list(run.path("_state/parts/")))
    info = run.read_info()
    assert info["images"] | {"listed": 1000, "ok": 1000, "error": 0, "remaining": 0} == info["images"]
    assert info["segments"] == 1000
    assert verify(run, "panoptic") == []
    assert [json.loads(file.read_text()) for file in log.iterdir()] == [{"torch": False}] * 2


def test_files_are_rewritten_before_a_replica_is_asked_for(ray_session, tmp_path, capsys):
    night, names = tmp_path / "night", [*stubs.uris(300)]
    sections = {"output": {"images_per_file": 30}, "compute": {"actors": 1, "threads_per_actor": 1}}
    config = config_of(tmp_path / "in.parquet", tmp_path / "run", DEMO_MODEL, **sections)
    pq.write_table(pa.table({"uri": names}), tmp_path / "in.parquet")
    assert around_stubs(config) == 0
    before = {file: os.stat(file).st_mtime_ns for file in open_directory(str(tmp_path / "run")).annotation_files()}
    names = sorted({*names, "/nowhere/new.jpg"} - {*names[::30]})  # one of each file has vanished
    night.mkdir()
    pq.write_table(pa.table({"uri": names}), tmp_path / "in.parquet")
    events = Events(show=print_line)
    assert job.segment(config, events=events, steps=stubs.steps(folder=str(night))).exit_code == 0
    assert len(before) == 10 and "rewrites 10 files on CPUs first" in capsys.readouterr().out
    replica_began = os.stat(night).st_mtime_ns  # its log is the only file there
    assert all(stamp < os.stat(file).st_mtime_ns < replica_began for file, stamp in before.items())
    assert rows_of(tmp_path / "run") == [ok_row(ImageRef(name, ""), stubs.SIZE_HW, [stubs.SEGMENT]) for name in names]
    assert verify(open_directory(str(tmp_path / "run")), "panoptic") == []
