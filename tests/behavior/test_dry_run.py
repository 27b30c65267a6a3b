"""``segment --dry-run``: what it says, what it refuses, and that it touches nothing."""

import re
from dataclasses import replace

import pytest
from conftest import DEMO_MODEL
from support.engines import config_of, in_process, rows_of

from benchmarks.lib import stubs
from m2f_batch.cli import main
from m2f_batch.errors import RunError
from m2f_batch.flow import job as jobs
from m2f_batch.flow.dry_run import forecast_lines
from m2f_batch.flow.unit.actor import ActorSettings
from m2f_batch.runs.directory import parquet_bytes

NUMBER = r"([\d.,]+(?:e-?\d+)?)"


def numbers(pattern: str, text: str) -> list[float]:
    """The figures of one line, which must be there once."""
    (found,) = re.findall(pattern.replace("#", NUMBER), text)
    return [float(number.replace(",", "")) for number in found]


def test_it_predicts_and_touches_nothing(ray_session, scenes, tmp_path, capsys):
    output = tmp_path / "run"
    before = {path: path.stat().st_mtime_ns for path in scenes.rglob("*")}
    assert main(["segment", str(scenes), str(output), "--model", str(DEMO_MODEL), "--dry-run"]) == 0
    said = capsys.readouterr()
    assert not output.exists() and said.err == ""
    assert {path: path.stat().st_mtime_ns for path in scenes.rglob("*")} == before
    assert "13 images (1 other files skipped" in said.out, "the plan comes first"
    assert "probe   13 images = 12 ok + 1 error" in said.out
    assert re.search(r"1 x (decode|fetch)/", said.out)
    value, low, high = numbers(r"predict # \(# to #\) images/s", said.out)
    assert 0 < low <= value <= high
    hours, least, most = numbers(r" # \(# to #\) hours for 13 images", said.out)
    assert hours == pytest.approx(13 / value / 3600, rel=0.01)
    assert least == pytest.approx(13 / high / 3600, rel=0.01) and most == pytest.approx(13 / low / 3600, rel=0.01)
    # every image was probed, so that the sizes are those of the run
    megabytes, _, _, to_read, _, _ = numbers(r" # \(# to #\) MB of output, # \(# to #\) MB to read", said.out)
    assert in_process(config_of(scenes, output, DEMO_MODEL, output={"images_per_file": 32})) == 0
    (file,) = (output / "annotations").glob("*.parquet")
    assert megabytes * 1e6 == pytest.approx(file.stat().st_size, rel=0.1)
    read = sum(path.stat().st_size for path in scenes.rglob("*") if path.suffix in (".png", ".jpg"))
    assert to_read * 1e6 == pytest.approx(read, rel=0.01)


def test_mistakes_are_those_of_segment(off_ray, scenes, tmp_path, capsys):
    output = str(tmp_path / "run")
    for mistake in (["--model", str(tmp_path / "gone")], ["--model", str(DEMO_MODEL), "--set", "postprocess.top_k=5"]):
        said = []
        for flag in ([], ["--dry-run"]):
            assert main(["segment", str(scenes), output, *mistake, *flag]) == 2
            said.append(capsys.readouterr())
        assert said[0] == said[1]
        assert said[0].out == ""
    assert not (tmp_path / "run").exists()


def test_an_output_that_holds_another_run_is_refused_and_kept(off_ray, scenes, tmp_path, capsys):
    output = tmp_path / "run"
    assert in_process(config_of(scenes, output, DEMO_MODEL)) == 0
    rows = rows_of(output)
    arguments = ["segment", str(scenes), str(output), "--model", str(DEMO_MODEL), "--dry-run"]
    arguments += ["--task", "instance"]
    assert main(arguments) == 2
    assert "output.uri" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert rows_of(output) == rows
    assert (output / "_SUCCESS").exists()


def test_a_model_that_does_not_load_is_an_error(ray_session, scenes, tmp_path, monkeypatch):
    """Around a stub: that a model of which a tensor is missing does not load is held in ``test_runs``."""

    def load(_: ActorSettings) -> stubs.StubSegmenter:
        raise RunError("1 tensors are missing")

    monkeypatch.setattr(jobs, "Steps", lambda: replace(stubs.steps(), load=load))
    with pytest.raises(RunError, match="1 tensors are missing"):
        jobs.forecast(config_of(scenes, tmp_path / "run", DEMO_MODEL))
    assert not (tmp_path / "run").exists()


def test_nothing_to_predict_from_images_that_fail(off_ray, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(b"no image")
    forecast = jobs.forecast(config_of(tmp_path / "images", tmp_path / "run", DEMO_MODEL))
    assert (forecast.listed, forecast.images.error, forecast.whole) == (3, 3, None)
    said = "\n".join(forecast_lines(forecast))
    assert "3 images = 0 ok + 3 error" in said
    assert "3 x decode/NotAnImage" in said
    assert "predict nothing" in said


def test_predicted_bytes_are_those_of_files(tmp_path, scenes):
    """Rows in files of two are more bytes than in one, which the prediction has to know."""
    from m2f_batch.flow.dry_run import file_bytes
    from m2f_batch.records import table_of
    from m2f_batch.vision.segmenter import Segmenter

    segmenter = Segmenter.from_pretrained(str(DEMO_MODEL), task="panoptic")
    table = table_of(segmenter.rows([path.read_bytes() for path in sorted(scenes.glob("*.png"))[:5]]))
    one, two = file_bytes(table, 32), file_bytes(table, 2)
    assert one == len(parquet_bytes(table)) < two
    assert two == sum(len(parquet_bytes(table.slice(at, 2))) for at in (0, 2, 4))
