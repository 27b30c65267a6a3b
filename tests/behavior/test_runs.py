"""What a run promises, held in this process and on Ray alike."""

import csv
import json
import re
import time
from contextlib import redirect_stdout
from dataclasses import replace
from importlib import import_module
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import DEMO_MODEL
from PIL import Image
from ray.exceptions import WorkerCrashedError
from support.engines import config_of, in_process, on_ray, rows_of
from support.models import save_incomplete_model

from benchmarks.lib import stubs
from m2f_batch.cli import main
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.flow import job as jobs
from m2f_batch.flow import pipeline
from m2f_batch.flow.attempt import finish
from m2f_batch.flow.unit.stages import prepare_unit
from m2f_batch.records import SCHEMA
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.inspect.verify import verify
from m2f_batch.storage.store import StoreUnavailable
from m2f_batch.vision.pixels.preprocess import prepare
from m2f_batch.vision.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def undisturbed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Rows of the plainest run, which every other must equal."""
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    assert in_process(config_of(scenes, output, DEMO_MODEL)) == 0
    return rows_of(output)


class Finished(NamedTuple):
    """A run that has ended: OUTPUT, what was said, and where it was."""

    output: Path
    said: str
    is_on_ray: bool


@pytest.fixture(scope="module", params=["in-process", "Ray, two actors"])
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Finished:
    """The same run in this process and on Ray."""
    output, said, is_on_ray = tmp_path_factory.mktemp("finished") / "run", StringIO(), request.param != "in-process"
    engine, compute = (on_ray, {"actors": 2}) if is_on_ray else (in_process, {})
    with redirect_stdout(said):
        assert engine(config_of(scenes, output, DEMO_MODEL, compute=compute)) == 0
    return Finished(output, said.getvalue(), is_on_ray)


def test_every_image_has_exactly_one_row(scenes, finished, undisturbed):
    output, rows = finished.output, rows_of(finished.output)
    files = sorted(str(path) for path in scenes.rglob("*") if path.suffix in (".png", ".jpg"))
    assert [row["uri"] for row in rows] == files
    assert rows == undisturbed
    broken = next(row for row in rows if row["uri"].endswith("broken.jpg"))
    assert (broken["status"], broken["error"]["stage"], broken["segments"]) == ("error", "decode", [])
    assert all(row["segments"] for row in rows if row["status"] == "ok")
    run = open_directory(str(output))
    assert all(run.read_annotations(file).schema.equals(SCHEMA) for file in run.annotation_files())
    assert len(run.annotation_files()) == 3, "13 images in units of 5"
    assert verify(run, "panoptic") == []
    assert run.is_finished()
    info = run.read_info()
    assert info["images"] == {"listed": 13, "ok": 12, "error": 1, "remaining": 0, "skipped": 1, "duplicates": 0}
    assert info["segments"] == sum(len(row["segments"]) for row in rows)
    assert sum(info["errors"].values()) == 1
    assert [c["name"] for c in info["categories"] if not c["isthing"]] == ["sky", "grass"]
    assert info["model"]["license"] == "mit"
    forward = info["forward"]
    replicas = forward["fast"] + forward["slow"]
    assert 1 <= replicas <= (2 if finished.is_on_ray else 1)
    assert sum(forward["why"].values()) <= replicas


def test_run_json_and_the_closing_lines_say_what_kept_a_run_busy(finished):
    info = json.loads((finished.output / "run.json").read_text())
    stages = info["stages"]
    # the write is timed by the pipeline, of which the stages in this process are only the inside
    expected = {"fetch", "decode", "forward", "postprocess"} | ({"write"} if finished.is_on_ray else set())
    assert expected <= stages.keys()
    assert all(stage.keys() == {"seconds", "busy"} for stage in stages.values())
    for name in expected:
        assert 0 <= stages[name]["seconds"] <= info["seconds"] * 4, "no more than four tasks at once"
    for name in ("decode", "forward", "postprocess"):
        assert stages[name]["seconds"] > 0 and stages[name]["busy"] > 0
    assert re.search(r"busy  fetch \d+ %  decode \d+ %  forward \d+ %  postprocess \d+ %  write \d+ %\n", finished.said)


def test_rows_are_those_of_the_segmenter(scenes, undisturbed):
    ok = [row for row in undisturbed if row["status"] == "ok"]
    segmenter = Segmenter.from_pretrained(str(DEMO_MODEL), task="panoptic")
    for row, alone in zip(ok, segmenter.rows([Path(row["uri"]).read_bytes() for row in ok]), strict=True):
        # one of the two went through Parquet, whose scores are float32
        for key in ("id", "category_id", "category", "area", "bbox", "counts"):
            assert [s[key] for s in row["segments"]] == [s[key] for s in alone["segments"]]
        assert [s["score"] for s in row["segments"]] == pytest.approx([s["score"] for s in alone["segments"]], abs=1e-7)


@pytest.mark.parametrize("images_per_file", [1, 3, 8])
def test_rows_do_not_depend_on_units_batches_or_order(scenes, tmp_path, undisturbed, images_per_file):
    manifest = tmp_path / "shuffled.csv"
    uris = [row["uri"] for row in undisturbed]
    with manifest.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["uri", "patient"])
        writer.writerows([uri, f"p{number}"] for number, uri in enumerate(uris[5:] + uris[:5]))
    config = config_of(
        manifest,
        tmp_path / "run",
        DEMO_MODEL,
        output={"images_per_file": images_per_file},
        compute={"batch_size": images_per_file},
    )
    assert in_process(config) == 0
    assert rows_of(tmp_path / "run") == undisturbed
    assert open_directory(str(tmp_path / "run")).read_manifest()["patient"].to_pylist().count("p0") == 1


@pytest.mark.parametrize("task", ["instance", "semantic"])
def test_other_tasks_fill_the_same_columns(scenes, tmp_path, task):
    config = config_of(scenes, tmp_path / "run", DEMO_MODEL, model={"task": task})
    assert in_process(config) == 0
    run = open_directory(str(tmp_path / "run"))
    assert verify(run, task) == []
    for row in rows_of(tmp_path / "run"):
        areas = sum(segment["area"] for segment in row["segments"])
        if task == "semantic" and row["status"] == "ok":
            assert areas == row["height"] * row["width"], "semantic segments tile the image"
        if task == "instance":
            assert not {"sky", "grass"} & {segment["category"] for segment in row["segments"]}


def test_a_run_of_other_settings_is_refused_unless_it_overwrites(scenes, tmp_path):
    output = tmp_path / "run"
    assert in_process(config_of(scenes, output, DEMO_MODEL)) == 0
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    with pytest.raises(UsageError, match=r'model\.task is "panoptic" there and "instance" here.*--overwrite'):
        on_ray(config_of(scenes, output, DEMO_MODEL, model={"task": "instance"}))
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
    (output / "mine.txt").write_text("not the run's")
    other = config_of(scenes, output, DEMO_MODEL, model={"task": "instance"}, output={"overwrite": True})
    assert jobs.segment(other, steps=stubs.steps()).exit_code == 0
    run = open_directory(str(output))
    assert verify(run, "instance") == []
    assert run.read_info()["task"] == "instance"
    assert (output / "mine.txt").exists()


def test_overwrite_deletes_only_what_a_run_wrote(scenes, tmp_path):
    output = tmp_path / "run"
    assert in_process(config_of(scenes, output, DEMO_MODEL)) == 0
    mine = [output / "annotations" / "instances_train2017.json", output / "_state" / "notes.txt"]
    for path in mine:
        path.write_text("mine")
    overwrite = config_of(scenes, output, DEMO_MODEL, output={"overwrite": True, "images_per_file": 3})
    assert in_process(overwrite) == 0
    assert [path.read_text() for path in mine] == ["mine", "mine"]
    assert len(open_directory(str(output)).annotation_files()) == 5


def test_an_output_with_other_parquet_files_is_refused(scenes, tmp_path):
    foreign = tmp_path / "run" / "annotations" / "mine.parquet"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"output\.uri.*mine\.parquet is not ours"):
        in_process(config_of(scenes, tmp_path / "run", DEMO_MODEL))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"output\.uri.*is a file"):
        in_process(config_of(scenes, tmp_path / "file", DEMO_MODEL))


def test_a_run_that_began_meanwhile_is_never_deleted(scenes, tmp_path):
    from m2f_batch.flow.job import check, run

    overwriting = check(config_of(scenes, tmp_path / "run", DEMO_MODEL, output={"overwrite": True}))
    same = check(config_of(scenes, tmp_path / "run", DEMO_MODEL))
    assert in_process(config_of(scenes, tmp_path / "run", DEMO_MODEL)) == 0
    before = rows_of(tmp_path / "run")
    with pytest.raises(UsageError, match="another run has just begun"):
        run(overwriting, "cpu", lambda units: (unit for unit in ()))
    nothing_left = run(same, "cpu", lambda units: (unit for unit in ()))
    assert nothing_left.exit_code == 0
    assert rows_of(tmp_path / "run") == before
    assert verify(open_directory(str(tmp_path / "run")), "panoptic") == []


def test_rows_that_get_lost_are_a_failed_run(scenes, tmp_path):
    from m2f_batch.flow.job import check, run

    job = check(config_of(scenes, tmp_path / "run", DEMO_MODEL))
    with pytest.raises(RunError, match="internal error: 13 of 13 listed images have no row"):
        run(job, "cpu", lambda units: (unit for unit in ()))
    assert not job.run.is_finished()
    assert job.run.read_info()["images"]["remaining"] == 13


def test_a_retry_reports_the_rows_that_stand(scenes, tmp_path, undisturbed):
    from m2f_batch.flow.unit.stages import LABELED_SCHEMA, commit_unit
    from m2f_batch.runs.directory import open_directory as opened

    run = opened(str(tmp_path / "run"))
    unit = {"unit": "0" * 32, "transient": None, "rows": undisturbed[:5]}
    first = commit_unit(pa.Table.from_pylist([unit], schema=LABELED_SCHEMA), run=run).to_pylist()
    other = {**unit, "rows": [{**row, "segments": []} for row in undisturbed[:5]]}
    assert commit_unit(pa.Table.from_pylist([other], schema=LABELED_SCHEMA), run=run).to_pylist() == first
    assert rows_of(tmp_path / "run") == undisturbed[:5]


def test_a_transient_failure_is_no_row(scenes, tmp_path, monkeypatch, undisturbed):
    import m2f_batch.flow.unit.stages as stages

    real = stages.fetch_many

    def throttled(refs, **options):
        for ref, data in real(refs, **options):
            if ref.uri.endswith("scene 03.png"):
                raise TransientError("s3: SlowDown")
            yield ref, data

    monkeypatch.setattr(stages, "fetch_many", throttled)
    output = tmp_path / "run"
    with pytest.raises(RunError, match="5 images remain: s3: SlowDown"):
        in_process(config_of(scenes, output, DEMO_MODEL))
    rows = rows_of(output)
    assert len(rows) == 8, "the unit of five that holds the throttled image has no file"
    assert all(row in undisturbed for row in rows)
    assert open_directory(str(output)).read_info()["images"]["remaining"] == 5
    assert not open_directory(str(output)).is_finished()


def test_a_refusal_is_in_a_json_log_too(tmp_path, capsys):
    with pytest.raises(UsageError) as error:
        on_ray(config_of(tmp_path / "nowhere", tmp_path / "run", DEMO_MODEL, run={"log": "json"}))
    (line,) = capsys.readouterr().out.splitlines()
    said = json.loads(line)
    assert (said["event"], said["type"], said["message"]) == ("failed", "UsageError", str(error.value))


def test_what_ray_dies_of_is_one_event_in_words(scenes, tmp_path, capsys, monkeypatch):
    def crashed(*_: object) -> None:
        raise WorkerCrashedError

    monkeypatch.setattr(jobs, "follow", crashed)
    with pytest.raises(RunError) as error:
        on_ray(config_of(scenes, tmp_path / "run", DEMO_MODEL, run={"log": "json"}))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (failed,) = (event for event in events if event["event"] == "failed")
    assert (failed["type"], failed["message"]) == ("RunError", str(error.value))


def test_labels_without_segments_are_remarked(scenes, tmp_path, capsys):
    keys = {"model": {"task": "instance"}, "postprocess": {"score_threshold": 1}}
    assert in_process(config_of(scenes, tmp_path / "run", DEMO_MODEL, **keys)) == 0
    said = capsys.readouterr().out
    assert "12 ok + 1 error; 0 segments" in said and "postprocess.score_threshold" in said


def test_too_many_errors_end_with_3(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(b"no image")
    config = config_of(folder, tmp_path / "run", DEMO_MODEL, input={"max_error_fraction": 0.05})
    assert in_process(config) == 3
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["images"]["error"] == 4
    assert info["errors"] == {"decode/NotAnImage": 4}
    assert (tmp_path / "run" / "_SUCCESS").exists()


def test_a_hopeless_run_stops_early(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(600):
        (folder / f"{number:03}.jpg").write_bytes(b"no image")
    config = config_of(
        folder, tmp_path / "run", DEMO_MODEL, input={"max_error_fraction": 0.05}, output={"images_per_file": 10}
    )
    steps = replace(stubs.steps(), prepare=prepare_unit)  # no image gets as far as a model
    assert jobs.segment(config, steps=steps).exit_code == 3
    run = open_directory(str(tmp_path / "run"))
    counts = run.read_info()["images"]
    assert 200 <= counts["error"] < 600
    assert counts["error"] == len(rows_of(tmp_path / "run")), "run.json counts what is there"
    assert verify(run, "panoptic") == []
    assert counts["listed"] == counts["error"] + counts["remaining"]
    assert not run.is_finished()


def test_a_model_that_does_not_load_leaves_output_alone(scenes, tmp_path):
    model = save_incomplete_model(tmp_path / "model")
    with pytest.raises(RunError, match="1 tensors are missing"):
        on_ray(config_of(scenes, tmp_path / "run", model))
    assert not (tmp_path / "run").exists()


def test_a_store_that_is_lost_in_a_commit_is_one_line(tmp_path, monkeypatch, capsys):
    def lose(_: pa.Table, **__: object) -> pa.Table:
        raise StoreUnavailable("s3://doomed/out: there is no such bucket")

    monkeypatch.setattr(pipeline, "commit", lose)  # in the actor's process
    monkeypatch.setattr(jobs, "Steps", stubs.steps)
    pq.write_table(pa.table({"uri": [*stubs.uris(20)]}), tmp_path / "in.parquet")
    command = ["segment", str(tmp_path / "in.parquet"), str(tmp_path / "run"), "--model", str(DEMO_MODEL)]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "s3://doomed/out: there is no such bucket" in said
    assert said.count("\n") == 1, said


@pytest.mark.parametrize(("family", "task"), [("eomt", "semantic"), ("rf_detr", "instance")])
def test_rows_of_another_family_cross_processes(tmp_path, family, task, request):
    """EoMT sees several windows of an image, and the pixels of RF-DETR are float32.

    One of them crosses on Ray. For the other it is enough that all that would cross is pickled, and in blocks of Arrow.
    """
    if family == "rf_detr":
        request.getfixturevalue("off_ray")
    image = draw_scene(3).image[:96, :230]
    Image.fromarray(image).save(tmp_path / "a.png")
    model = tmp_path / "model"
    with torch.random.fork_rng():
        import_module(f"support.tiny.{family}").build(model)
    sections = {"model": {"task": task}, "compute": {"actors": 1}}
    sections |= {"postprocess": {"score_threshold": 0.0}} if task == "instance" else {}
    config = config_of(tmp_path / "a.png", tmp_path / "ray", model, **sections)
    labeling = jobs.check(config).labeling
    seen = prepare(image, labeling.preprocess, labeling.cut)
    assert (len(seen.views) > 1, seen.contents[0].dtype) == (
        family == "eomt",
        "uint8" if family == "eomt" else "float32",
    )
    assert on_ray(config) == 0
    assert in_process(config_of(tmp_path / "a.png", tmp_path / "here", model, **sections)) == 0
    assert all(row["segments"] for row in rows_of(tmp_path / "ray"))
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "here")
    assert verify(open_directory(str(tmp_path / "ray")), task) == []


def test_nobody_waits_for_a_gate_that_was_closed(tmp_path, monkeypatch):
    """run.json is kept fresh while a run is verified, and its gate is gone by then."""
    waits = []
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=waits.append)
    monkeypatch.setattr("m2f_batch.flow.crashes.gate.time", clock)
    monkeypatch.setattr("m2f_batch.flow.crashes.gate.PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr("m2f_batch.flow.watch.progress.REFRESH_SECONDS", 0.1)
    verify_reports = finish.verify_reports

    def slowly(*arguments, **options):
        time.sleep(0.5)
        return verify_reports(*arguments, **options)

    monkeypatch.setattr(finish, "verify_reports", slowly)
    pq.write_table(pa.table({"uri": [*stubs.uris(20)]}), tmp_path / "in.parquet")
    assert (
        jobs.segment(config_of(tmp_path / "in.parquet", tmp_path / "run", DEMO_MODEL), steps=stubs.steps()).exit_code
        == 0
    )
    assert waits == []
