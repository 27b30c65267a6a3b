"""Kills, changes and repeats: the same command goes on, and the rows end up those of one undisturbed run."""

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import DEMO_MODEL
from support.engines import config_of, in_process, rows_of

import m2f_batch.flow.unit.stages as stages
from m2f_batch.errors import RunError, UsageError
from m2f_batch.flow.watch.metrics import Metrics
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.inspect.verify import verify
from m2f_batch.runs.writing.commit import staged

UNITS = {"output": {"images_per_file": 6}, "run": {"images_per_unit": 2}}


class Killed(BaseException):
    """Nothing catches it, as nothing catches a SIGKILL."""


@pytest.fixture(scope="module")
def undisturbed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    assert in_process(config_of(scenes, output, DEMO_MODEL)) == 0
    return rows_of(output)


@pytest.fixture
def images(scenes: Path, tmp_path: Path) -> Path:
    """The scenes with their times, so that they have the versions of the others' rows, in a folder to change."""
    return Path(shutil.copytree(scenes, tmp_path / "images"))


def bare(rows: list[dict]) -> list[dict]:
    """Rows of copies in another folder: by file name, without what follows from the folder."""
    return [{**row, "uri": row["uri"].rpartition("/")[2], "image_id": None, "version": None} for row in rows]


def kill_before(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The process dies when it would commit its unit of that number, counted from 0."""
    real, calls = stages.commit, iter(range(10**6))

    def commit(*args, **options):
        if next(calls) == number:
            raise Killed
        return real(*args, **options)

    monkeypatch.setattr(stages, "commit", commit)


@pytest.mark.parametrize("kills", [(0,), (1,), (2, 1), (3, 3), (6,)])
def test_the_same_command_goes_on(scenes, tmp_path, monkeypatch, undisturbed, kills):
    config = config_of(scenes, tmp_path / "run", DEMO_MODEL, **UNITS)
    labelled = []
    real = stages.label_unit
    for number in kills:
        with monkeypatch.context() as patch:
            kill_before(patch, number)
            with pytest.raises(Killed):
                in_process(config)
        run = open_directory(str(tmp_path / "run"))
        assert not run.is_finished()
        assert verify(run, "panoptic") == []
        assert all(row in undisturbed for row in rows_of(tmp_path / "run"))
    monkeypatch.setattr(stages, "label_unit", lambda *args: (labelled.append(1), real(*args))[1])
    assert in_process(config) == 0
    assert len(labelled) == 7 - sum(kills), "13 images in units of 2: what was committed is not done again"
    assert rows_of(tmp_path / "run") == undisturbed
    run = open_directory(str(tmp_path / "run"))
    assert verify(run, "panoptic") == [] and run.is_finished() and staged(run) == []
    info = run.read_info()
    assert info["attempts"] == len(kills) + 1
    assert (info["images"]["ok"], info["images"]["error"], info["images"]["remaining"]) == (12, 1, 0)
    assert sum(info["errors"].values()) == 1


def test_a_run_that_is_done_is_left_alone(scenes, tmp_path, capsys, monkeypatch):
    successes = []
    monkeypatch.setattr(Metrics, "succeeded", lambda metrics: successes.append(metrics))
    config = config_of(scenes, tmp_path / "run", DEMO_MODEL, **UNITS)
    assert in_process(config) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.parquet")}
    success, info = tmp_path / "run" / "_SUCCESS", tmp_path / "run" / "run.json"
    stamps = success.stat().st_mtime_ns, info.stat().st_mtime_ns
    capsys.readouterr()
    assert in_process(config) == 0
    assert "nothing new: 13 in = 12 ok + 1 error" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.parquet")} == before
    assert (success.stat().st_mtime_ns, info.stat().st_mtime_ns) == stamps
    assert len(successes) == 2, "nothing new is no reason for an alarm"


def test_new_changed_and_vanished_images_only(images, tmp_path, monkeypatch):
    config = config_of(images, tmp_path / "run", DEMO_MODEL, input={"max_removed_fraction": 0.2}, **UNITS)
    assert in_process(config) == 0
    (images / "scene 03.png").unlink()
    shutil.copy(images / "scene 05.png", images / "scene 04.png")
    os.utime(images / "scene 04.png", (1, 1))
    shutil.copy(images / "scene 06.png", images / "zz new.png")
    fetched = []
    real = stages.fetch_many

    def fetch_many(refs, **options):
        fetched.extend(ref.uri.rpartition("/")[2] for ref in refs)
        return real(refs, **options)

    monkeypatch.setattr(stages, "fetch_many", fetch_many)
    assert in_process(config) == 0
    assert sorted(fetched) == ["scene 04.png", "zz new.png"]
    again = config_of(images, tmp_path / "again", DEMO_MODEL)
    assert in_process(again) == 0
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "again")
    run = open_directory(str(tmp_path / "run"))
    assert verify(run, "panoptic") == [] and run.is_finished()
    assert run.read_info()["images"]["listed"] == 13
    assert (tmp_path / "run" / "_SUCCESS").exists()


@pytest.mark.parametrize("moment", ["write_dirty", "write_manifest", "clean", "write_info", "label"])
def test_killed_while_the_plan_changes(images, tmp_path, monkeypatch, moment):
    """At each step between the old plan and the new one; afterwards INPUT changes once more."""
    import m2f_batch.flow.attempt.open_output as begin
    from m2f_batch.runs.directory import RunDirectory

    config = config_of(images, tmp_path / "run", DEMO_MODEL, input={"max_removed_fraction": 1.0}, **UNITS)
    assert in_process(config) == 0
    kept = (images / "scene 03.png").read_bytes()
    stamp = (images / "scene 03.png").stat()
    (images / "scene 03.png").unlink()
    shutil.copy(images / "scene 06.png", images / "zz new.png")

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "label":
            patch.setattr(stages, "label_unit", kill)
        elif moment in ("write_dirty", "clean"):
            patch.setattr(begin, moment, kill)
        else:
            patch.setattr(RunDirectory, moment, kill)
        with pytest.raises(Killed):
            in_process(config)
    ids = [row["image_id"] for row in rows_of(tmp_path / "run")]
    assert len(set(ids)) == len(ids)
    assert verify(open_directory(str(tmp_path / "run")), "panoptic") == []
    (images / "scene 03.png").write_bytes(kept)  # it is back, as it was
    os.utime(images / "scene 03.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert in_process(config) == 0
    assert in_process(config_of(images, tmp_path / "again", DEMO_MODEL)) == 0
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "again")
    assert verify(open_directory(str(tmp_path / "run")), "panoptic") == []


def test_too_many_vanished_images_are_refused(images, tmp_path):
    config = config_of(images, tmp_path / "run", DEMO_MODEL, **UNITS)
    assert in_process(config) == 0
    before = rows_of(tmp_path / "run")
    for number in (3, 4):
        (images / f"scene 0{number}.png").unlink()
    with pytest.raises(UsageError, match=r"2 of the 13 images .* input\.max_removed_fraction \(0\.1\)"):
        in_process(config)
    assert rows_of(tmp_path / "run") == before
    assert open_directory(str(tmp_path / "run")).is_finished()


@pytest.mark.parametrize("retry", ["errors", "errors=decode", "errors=Truncated", "errors=fetch"])
def test_errors_are_tried_again_when_asked(images, tmp_path, monkeypatch, retry):
    config = config_of(images, tmp_path / "run", DEMO_MODEL, **UNITS)
    with monkeypatch.context() as patch:  # what was wrong was not the image, but the version of a decoder, say
        import m2f_batch.vision.pixels.preprocess as preprocess
        from m2f_batch.errors import ImageError

        real = preprocess.prepare_image
        size = (images / "scene 07.png").stat().st_size

        def prepare_image(data, *args):
            return ImageError("decode", "Truncated", "old") if len(data) == size else real(data, *args)

        patch.setattr(preprocess, "prepare_image", prepare_image)
        assert in_process(config) == 0
    assert [row["error"]["type"] for row in rows_of(tmp_path / "run") if row["error"]].count("Truncated") >= 1
    before = rows_of(tmp_path / "run")
    again = config_of(
        images, tmp_path / "run", DEMO_MODEL, output=UNITS["output"], run={"images_per_unit": 2, "retry": retry}
    )
    assert in_process(again) == 0
    assert in_process(config_of(images, tmp_path / "again", DEMO_MODEL)) == 0
    if retry == "errors=fetch":
        assert rows_of(tmp_path / "run") == before
    else:
        assert rows_of(tmp_path / "run") == rows_of(tmp_path / "again")
    assert verify(open_directory(str(tmp_path / "run")), "panoptic") == []


def test_another_fingerprint_or_input_is_refused_with_what_differs(images, tmp_path):
    assert in_process(config_of(images, tmp_path / "run", DEMO_MODEL, **UNITS)) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    other = config_of(images, tmp_path / "run", DEMO_MODEL, postprocess={"score_threshold": 0.3}, **UNITS)
    with pytest.raises(UsageError, match=r"postprocess\.score_threshold is 0\.8 there and 0\.3 here.*--overwrite"):
        in_process(other)
    elsewhere = config_of(images / "more", tmp_path / "run", DEMO_MODEL, **UNITS)
    with pytest.raises(UsageError, match=r"a run over .*images, and input\.uri is .*more"):
        in_process(elsewhere)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    overwriting = config_of(
        images,
        tmp_path / "run",
        DEMO_MODEL,
        postprocess={"score_threshold": 0.3},
        output={"overwrite": True, "images_per_file": 6},
    )
    assert in_process(overwriting) == 0
    assert open_directory(str(tmp_path / "run")).read_info()["attempts"] == 1


def test_overwrite_goes_on_with_what_it_began_itself(scenes, tmp_path, monkeypatch, undisturbed):
    overwrite = {"output": {"images_per_file": 6, "overwrite": True}, "run": {"images_per_unit": 2}}
    config = config_of(scenes, tmp_path / "run", DEMO_MODEL, **overwrite)
    assert in_process(config) == 0
    with monkeypatch.context() as patch:
        kill_before(patch, 4)
        with pytest.raises(Killed):
            in_process(config)
    run_id = open_directory(str(tmp_path / "run")).read_info()["run_id"]
    assert in_process(config) == 0
    assert open_directory(str(tmp_path / "run")).read_info()["run_id"] == run_id
    assert rows_of(tmp_path / "run") == undisturbed


def test_a_file_that_was_deleted_is_made_again(scenes, tmp_path, undisturbed):
    config = config_of(scenes, tmp_path / "run", DEMO_MODEL, **UNITS)
    assert in_process(config) == 0
    next((tmp_path / "run" / "annotations").iterdir()).unlink()
    assert in_process(config) == 0
    assert rows_of(tmp_path / "run") == undisturbed


def test_annotations_of_nobody_are_refused(scenes, tmp_path):
    assert in_process(config_of(scenes, tmp_path / "run", DEMO_MODEL, **UNITS)) == 0
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(UsageError, match=r"output\.uri: .*annotations without a run\.json"):
        in_process(config_of(scenes, tmp_path / "run", DEMO_MODEL, **UNITS))


def test_files_are_of_useful_size_and_sorted(scenes, tmp_path):
    config = config_of(scenes, tmp_path / "run", DEMO_MODEL, output={"images_per_file": 10}, run={"images_per_unit": 3})
    assert in_process(config) == 0
    files = [pq.read_table(path)["uri"].to_pylist() for path in (tmp_path / "run" / "annotations").iterdir()]
    assert sorted(len(uris) for uris in files) == [3, 10]
    assert all(uris == sorted(uris) for uris in files)


def test_a_lost_lease_stops_a_run(scenes, tmp_path, monkeypatch):
    """Another one has taken over: nothing more is committed, run.json stays the other's."""
    config = config_of(scenes, tmp_path / "run", DEMO_MODEL, **UNITS)
    real, calls = stages.commit, iter(range(100))

    def commit(run, *args):
        if next(calls) == 3:
            (tmp_path / "run" / "_state" / "lease" / "000000002.json").write_text("{}")
        return real(run, *args)

    monkeypatch.setattr(stages, "commit", commit)
    with pytest.raises(RunError, match="another run has taken"):
        in_process(config)
    assert not open_directory(str(tmp_path / "run")).is_finished()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["images"]["listed"] == 13


@pytest.mark.parametrize("killed_in", [None, "sweep", "join_whole", "write_info"])
def test_small_files_of_many_nights_are_merged(scenes, tmp_path, monkeypatch, undisturbed, killed_in):
    """One image a night; the merge is killed at a step of it, or not."""
    import m2f_batch.flow.attempt.open_output as begin
    import m2f_batch.runs.plan as plan
    from m2f_batch.runs.directory import RunDirectory

    monkeypatch.setattr(plan, "SMALL_FILES", 3)
    images = tmp_path / "images"
    images.mkdir()
    names = [path for path in sorted(scenes.iterdir()) if path.suffix in (".png", ".jpg")]
    config = config_of(images, tmp_path / "run", DEMO_MODEL, output={"images_per_file": 8}, run={"images_per_unit": 2})
    counts, labelled, real = [], [], stages.label_unit
    monkeypatch.setattr(stages, "label_unit", lambda *args: (labelled.append(1), real(*args))[1])
    for night, path in enumerate(names):
        shutil.copy2(path, images / path.name)
        if killed_in and night in (4, 8):

            def kill(*_: object, **__: object) -> None:
                raise Killed

            with monkeypatch.context() as patch:
                patch.setattr(RunDirectory if killed_in == "write_info" else begin, killed_in, kill)
                with pytest.raises(Killed):
                    in_process(config)
            ids = [row["image_id"] for row in rows_of(tmp_path / "run")]
            assert len(set(ids)) == len(ids)
        before = len(labelled)
        assert in_process(config) == 0
        assert len(labelled) == before + 1, "only the new one is labelled"
        run = open_directory(str(tmp_path / "run"))
        assert verify(run, "panoptic") == [] and staged(run) == []
        counts.append(len(run.annotation_files()))
        assert len(rows_of(tmp_path / "run")) == night + 1
    assert max(counts) <= 5
    there = {row["uri"].rpartition("/")[2] for row in bare(rows_of(tmp_path / "run"))}
    assert bare(rows_of(tmp_path / "run")) == [row for row in bare(undisturbed) if row["uri"] in there]
