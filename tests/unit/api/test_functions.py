"""The functions of the package return data, print nothing, and answer mistakes as ValueErrors in words of Python."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DEMO_MODEL
from PIL import Image

import m2f_batch
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import fields_of
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.records import SCHEMA, Row
from m2f_batch.result import Outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes and a broken file in ``images``."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "images").mkdir()
    for number in range(3):
        Image.fromarray(draw_scene(number).image).save(folder / "images" / f"{number}.png")
    (folder / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    return folder


def labeled(folder: Path, name: str = "run", **settings: Any) -> Any:
    return m2f_batch.segment(
        folder / "images", folder / name, model=DEMO_MODEL, task="instance", max_error_fraction=0.5, **settings
    )


class Mapped:
    def __init__(self, row: Row) -> None:
        self._row = row

    def __getitem__(self, key: str) -> object:
        return self._row[key]


def test_a_run_from_its_images_to_its_figures(folder: Path, off_ray: None, capfd: pytest.CaptureFixture[str]):
    outcome = labeled(folder)
    assert isinstance(outcome, Outcome) and outcome.exit_code == 0 and outcome.error is None
    counts = outcome.totals.images
    assert (counts.listed, counts.ok, counts.error, counts.remaining) == (4, 3, 1, 0)

    run = m2f_batch.open_run(folder / "run")
    table = run.table()
    assert table.schema.equals(SCHEMA) and table.num_rows == 4
    assert run.table(["uri", "status"])["status"].to_pylist() == ["ok", "ok", "ok", "error"]
    row = run.row(str(folder / "images" / "0.png"))
    assert row is not None
    segments = run.segments(row)
    assert run.segments(Mapped(row)) == segments  # as pandas' Series is, it is no Mapping
    assert segments and [segment.entry() for segment in segments] == row["segments"]
    picture = m2f_batch.plot(row["uri"], segments)
    assert picture.size == (row["width"], row["height"])
    assert (np.asarray(picture) != run.image(row)).any(axis=2)[segments[0].mask()].all()

    done = m2f_batch.export(run, folder / "coco.json")
    assert (done.exported, done.segments) == (3, outcome.totals.segments)
    assert done.images == counts
    assert any("1 images that failed" in line for line in done.lines)
    found = m2f_batch.evaluate(run, folder / "coco.json", metrics="ap")
    assert found.metrics["AP"] == pytest.approx(1.0) and (found.measured, found.rows["ok"]) == (3, 3)
    assert "AP" in found.classes.column_names and found.classes.num_rows == len(run.info.categories)
    assert any("label with score_threshold=0" in text for text in found.warnings)

    proof = m2f_batch.verify(folder / "run")
    assert (proof.problems, proof.is_finished) == ((), True)
    assert (proof.listed, proof.ok, proof.error, proof.remaining, proof.staged) == (4, 3, 1, 0, 0)
    assert m2f_batch.verify(run) == proof
    again = labeled(folder)
    assert again.totals.images == counts, "nothing to do"
    assert capfd.readouterr() == ("", "")


def test_a_dataset_from_its_faults_to_another_format(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    box = [[10, 10, 60, 10, 60, 50, 10, 50]]
    images = [{"id": number, "file_name": f"{number}.png", "height": 192, "width": 256} for number in range(3)]
    annotations = [
        {"id": 1, "image_id": 0, "category_id": 1, "segmentation": box, "iscrowd": 0, "area": 2000, "bbox": []},
        {"id": 2, "image_id": 1, "category_id": 1, "segmentation": [[5, 5, 9, 5, 9, 9]], "iscrowd": 0},
        {"id": 3, "image_id": 7, "category_id": 1, "segmentation": box, "iscrowd": 0},
    ]
    categories = [{"id": 1, "name": "ball"}]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(truth))

    report = m2f_batch.lint(tmp_path / "truth.json", train_images=folder / "images")
    assert report.images == {"train": 3} and report.categories == ("ball",)
    assert "unlisted-image" in report.faults
    kinds = {row["kind"]: row for row in report.kinds.to_pylist()}
    assert kinds["unlisted-image"]["count"] == 1 and kinds["unlisted-image"]["is_fault"]
    (finding,) = [row for row in report.findings.to_pylist() if row["kind"] == "unlisted-image"]
    assert finding["text"] == "image_id 7 is not in 'images'" and "truth.json" in finding["where"]
    ignoring = m2f_batch.lint(tmp_path / "truth.json", train_images=folder / "images", ignore="unlisted-image")
    assert "unlisted-image" not in ignoring.faults
    words = " ".join(row["effect"] + row["advice"] for row in report.kinds.to_pylist())
    assert "data." not in words and "--" not in words

    truth["annotations"] = annotations[:2]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    options = {"format": "coco", "images": folder / "images"}
    done = m2f_batch.convert(tmp_path / "truth.json", tmp_path / "yolo", to="yolo", split=0.67, **options)
    assert done.images == {"train": 2, "val": 1} and done.left_out == 0
    assert (tmp_path / "yolo" / "data.yaml").exists() and any("YOLO" in line or "yolo" in line for line in done.lines)
    assert capfd.readouterr() == ("", "")


def test_a_training_is_given_its_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    given: list[FinetuneConfig] = []
    told = Outcome[object](warnings=("the key is train.steps", "m2f-batch lint shows all"))
    monkeypatch.setattr("m2f_batch.train.command.finetune", lambda made: given.append(made) or told)
    (tmp_path / "a.yaml").write_text(
        f"train: {{steps: 7, batch_size: 2}}\ndata: {{split: 0.5, train_images: {tmp_path}}}\n"
    )
    outcome = m2f_batch.finetune(
        tmp_path / "a.json", "tuned", model="m", config=tmp_path / "a.yaml", batch_size=4, model_config={"x": 1}
    )
    assert outcome.warnings == ("the key is steps", "m2f_batch.lint shows all")
    mapping = {"train": {"steps": 7, "batch_size": 2}, "data": {"split": 0.5, "train_images": tmp_path}}
    m2f_batch.finetune(tmp_path / "a.json", "tuned", model="m", config=mapping, batch_size=4, model_config={"x": 1})
    first, second = given
    assert first == second
    assert (first.data.train, first.train.steps, first.train.batch_size) == (str(tmp_path / "a.json"), 7, 4)
    assert (first.data.split, first.model.uri, first.model.config) == (0.5, "m", {"x": 1})
    assert mapping["train"] == {"steps": 7, "batch_size": 2}, "what a caller gives is left as it is"


def test_what_a_plan_warns_of_is_returned(folder: Path, off_ray: None, capfd: pytest.CaptureFixture[str]):
    """On the command line it is said. In Python it is data, in words of Python."""
    model = folder / "no-stuff"
    shutil.copytree(DEMO_MODEL, model)
    tree = json.loads((model / "config.json").read_text())
    tree.pop("label_ids_to_fuse", None)
    (model / "config.json").write_text(json.dumps(tree))
    outcome = m2f_batch.segment(
        folder / "images", folder / "loud", model=model, task="panoptic", max_error_fraction=0.1
    )
    assert "nothing says which labels are stuff, so none is merged; set stuff_ids" in outcome.warnings
    assert outcome.exit_code == 3 and outcome.error is not None and " max_error_fraction" in outcome.error
    assert capfd.readouterr() == ("", "")


def test_words_of_transformers_are_arguments_as_they_are_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    given: list[SegmentConfig] = []
    monkeypatch.setattr("m2f_batch.flow.job.segment", lambda made, **_: given.append(made) or Outcome())
    for settings in (
        {"threshold": 0.25, "precision": "bfloat16", "label_ids_to_fuse": [1]},
        {"config": {"postprocess": {"threshold": 0.25, "label_ids_to_fuse": [1]}, "model": {"precision": "bfloat16"}}},
        {
            "config": {"postprocess": {"threshold": 0.75}},
            "score_threshold": 0.25,
            "precision": "bf16",
            "stuff_ids": [1],
        },
    ):
        m2f_batch.segment("a", "b", model="m", **settings)  # type: ignore[arg-type]
    assert given[0] == given[1] == given[2] and given[0].postprocess.score_threshold == 0.25


def test_lint_takes_a_config_of_a_training_that_has_no_length(folder: Path, tmp_path: Path):
    truth = {"images": [{"id": 1, "file_name": "0.png", "height": 192, "width": 256}], "annotations": []}
    (tmp_path / "truth.json").write_text(json.dumps({**truth, "categories": [{"id": 1, "name": "ball"}]}))
    for train in ({}, {"batch_size": 2}, {"epochs": 3}, {"steps": 5}):
        config = {"data": {"train_images": folder / "images"}, "train": train}
        assert m2f_batch.lint(tmp_path / "truth.json", config=config).images == {"train": 1}


# a call with the folder of the images, and what it says
MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no model": (lambda at: m2f_batch.segment(at / "images", at / "x"), "model: is not given; "),
    "no such images": (lambda at: m2f_batch.segment(at / "none", at / "x", model=DEMO_MODEL), "images: .*none"),
    "output inside": (
        lambda at: m2f_batch.segment(at / "images", at / "images" / "x", model=DEMO_MODEL),
        r"output: .* is, or lies inside, images '",
    ),
    "unknown argument": (
        lambda at: m2f_batch.segment(at / "images", at / "x", model=DEMO_MODEL, score_treshold=0.1),
        "score_treshold: is no argument; did you mean score_threshold",
    ),
    "a word of ultralytics": (
        lambda at: m2f_batch.segment(at / "images", at / "x", model=DEMO_MODEL, conf=0.3),
        "conf: is no argument; did you mean score_threshold",
    ),
    "another word of ultralytics": (
        lambda at: m2f_batch.segment(at / "images", at / "x", model=DEMO_MODEL, imgsz=640),
        "imgsz: is no argument; did you mean size",
    ),
    "a word of torch": (
        lambda at: m2f_batch.segment(at / "images", at / "x", model=DEMO_MODEL, num_workers=4),
        "num_workers: is no argument; leave it out",
    ),
    "a word that needs nothing": (
        lambda at: m2f_batch.segment(at / "images", at / "x", model=DEMO_MODEL, resume=True),
        "resume: is no argument; leave it out: the same command goes on where it stopped$",
    ),
    "another word that needs nothing": (
        lambda at: m2f_batch.segment(at / "images", at / "x", model=DEMO_MODEL, recursive=True),
        "recursive: is no argument; leave it out: folders below images are always read$",
    ),
    "a word for which there is nothing": (
        lambda at: m2f_batch.segment(at / "images", at / "x", model=DEMO_MODEL, classes=[0]),
        "classes: is no argument; there is no such setting$",
    ),
    "a word of ultralytics for what is given": (
        lambda at: m2f_batch.segment(at / "images", at / "x", model=DEMO_MODEL, source="more"),
        "source: is no argument; did you mean images\\?$",
    ),
    "a word of a key of another job": (
        lambda at: m2f_batch.segment(at / "images", at / "x", model=DEMO_MODEL, lr=1e-4),
        "lr: is no argument; there is no such setting$",
    ),
    "a word for a Segmenter": (
        lambda _: m2f_batch.Segmenter.from_pretrained(DEMO_MODEL, conf=0.3),
        "conf: is no argument; did you mean score_threshold",
    ),
    "no word for a Segmenter": (
        lambda _: m2f_batch.Segmenter.from_pretrained(DEMO_MODEL, device_map="auto"),
        "device_map: is no argument; did you mean device\\?$",
    ),
    "a Segmenter of images": (
        lambda _: m2f_batch.Segmenter(["photo.jpg"]),
        r"Segmenter: is not made so; Segmenter\.from_pretrained",
    ),
    "a Segmenter of words": (
        lambda _: m2f_batch.Segmenter("M", task="instance", device="cpu"),
        r"Segmenter: is not made so; Segmenter\.from_pretrained",
    ),
    "a Segmenter of texts": (
        lambda _: m2f_batch.Segmenter("M", "instance", "cpu"),
        r"Segmenter: is not made so; Segmenter\.from_pretrained",
    ),
    "value": (
        lambda at: m2f_batch.segment(at / "images", at / "x", model=DEMO_MODEL, score_threshold=3),
        "score_threshold: 3 is not allowed",
    ),
    "task": (lambda at: m2f_batch.segment(at / "images", at / "x", model=DEMO_MODEL, task="boxes"), "task: 'boxes'"),
    "key of a config": (
        lambda at: m2f_batch.segment(at / "images", at / "x", model=DEMO_MODEL, config={"compute": {"actor": 1}}),
        "compute.actor: unknown key .*did you mean actors",
    ),
    "no config": (
        lambda at: m2f_batch.segment(at / "images", at / "x", config=at / "none.yaml"),
        "config .*none.yaml: cannot be read",
    ),
    "a list": (lambda at: m2f_batch.segment([at], at / "x", model=DEMO_MODEL), "images: is of type list; allowed: "),
    "no steps": (lambda at: m2f_batch.finetune(at / "a.json", at / "x"), "steps, epochs: exactly one of them must be"),
    "no annotations": (lambda at: m2f_batch.finetune(at / "a.json", at / "x", steps=1), "dataset: .*a.json"),
    "rate": (
        lambda at: m2f_batch.finetune(at / "a.json", at / "x", steps=1, learning_rate=-1),
        "learning_rate: -1 is not allowed",
    ),
    "no run": (lambda at: m2f_batch.open_run(at), r"run: .* holds no run.json; .*m2f_batch\.segment"),
    "no place of a run": (lambda _: m2f_batch.open_run(""), "run: a URI must not be empty"),
    "no run to verify": (lambda at: m2f_batch.verify(at / "none"), "run: "),
    "no run to export": (lambda at: m2f_batch.export(at / "none", at / "x.json"), "run: "),
    "export format": (lambda at: m2f_batch.export(at / "run", at / "x", "coca"), "format: 'coca' is not known"),
    "an image of the run": (
        lambda at: m2f_batch.export(at / "run", at / "images" / "0.png"),
        "dest: .*0.png' is an image of the run; give another name$",
    ),
    "no truth": (lambda at: m2f_batch.evaluate(at / "run", at / "none.json"), "ground_truth: "),
    "metric": (
        lambda at: m2f_batch.evaluate(at / "run", at / "x.json", metrics=["pq"]),
        "metrics: 'pq' is not known for instance rows",
    ),
    "no metric": (
        lambda at: m2f_batch.evaluate(at / "run", at / "x.json", metrics=[]),
        "metrics: must name a metric; allowed: ap, ",
    ),
    "lint images": (
        lambda at: m2f_batch.lint(at / "a.json", images=at / "images"),
        "images: is no argument; did you mean train_images",
    ),
    "lint format": (lambda at: m2f_batch.lint(at / "a.json", format="voc"), "format: 'voc' is not allowed"),
    "lint nothing": (lambda at: m2f_batch.lint(at / "none.json"), "dataset: "),
    "lint kinds": (lambda at: m2f_batch.lint(at / "none.json", ignore=["typo"]), "ignore: typo: not known"),
    "lint queries": (lambda at: m2f_batch.lint(at / "none.json", queries=0), "queries: must be 1 or more"),
    "convert from": (lambda at: m2f_batch.convert(at, at / "x", format="voc", to="coco"), "format: 'voc' is not known"),
    "convert to": (lambda at: m2f_batch.convert(at, at / "x", format="coco", to="voc"), "to: 'voc' is not known"),
    "convert nothing": (lambda at: m2f_batch.convert(at / "n.json", at / "x", format="coco", to="yolo"), "source: "),
    "convert seed": (
        lambda at: m2f_batch.convert(at, at / "x", format="coco", to="yolo", seed=1),
        "seed: goes with split, the share to train on; give 0.8, for example$",
    ),
    "convert queries": (
        lambda at: m2f_batch.convert(at, at / "x", format="coco", to="yolo", queries=1),
        "queries: goes with drop_faulty",
    ),
    "convert share": (
        lambda at: m2f_batch.convert(at, at / "x", format="coco", to="yolo", split="half"),
        "split: 'half' is not allowed \\(no number\\)",
    ),
    "convert cap": (
        lambda at: m2f_batch.convert(at, at / "x", format="coco", to="yolo", max_pixels="x"),
        "max_pixels: 'x' is not allowed",
    ),
    "convert seed of another kind": (
        lambda at: m2f_batch.convert(at, at / "x", format="coco", to="yolo", split=0.5, seed="x"),
        "seed: 'x' is not allowed",
    ),
    "convert queries of another kind": (
        lambda at: m2f_batch.convert(at, at / "x", format="coco", to="yolo", drop_faulty=True, queries="x"),
        "queries: must be 1 or more; got 'x'",
    ),
    "convert several": (lambda at: m2f_batch.convert(at, at / "x", format="coco", to=["yolo"]), "to: is of type list"),
    "truth cap": (lambda at: m2f_batch.evaluate(at / "run", at / "x", max_pixels=0), "max_pixels: 0 is not allowed"),
    "metrics": (lambda at: m2f_batch.evaluate(at / "run", at / "x", metrics=3), "metrics: is of type int; allowed: "),
    "a number for a model": (
        lambda _: m2f_batch.Segmenter.from_pretrained(3),
        "model: is of type int; allowed: a path",
    ),
    "pickled weights": (
        lambda at: m2f_batch.Segmenter.from_pretrained(pickled(at)),
        r"model: .*m2f-batch convert-checkpoint .*pickled DEST",
    ),
    "both words": (
        lambda at: m2f_batch.segment(at / "images", at / "x", model=DEMO_MODEL, threshold=0.2, score_threshold=0.3),
        "score_threshold and its alias threshold are both given in one place: keep one of them$",
    ),
    "a section that is none": (
        lambda at: m2f_batch.segment(
            at / "images", at / "x", model=DEMO_MODEL, config={"postprocess": 3}, score_threshold=0.3
        ),
        "postprocess: 3 is not allowed; allowed: a mapping of score_threshold, ",
    ),
    "a dotted key": (
        lambda at: m2f_batch.segment(at / "images", at / "x", model=DEMO_MODEL, config={"postprocess.top_k": 3}),
        "'postprocess.top_k': unknown key; sections are nested: postprocess: {top_k: ...}$",
    ),
    "a window": (
        lambda _: m2f_batch.Segmenter.from_pretrained(DEMO_MODEL, window={"size": 9, "stride": 1}),
        "window.stride: 1 is not allowed with size 9",
    ),
    "column": (lambda at: m2f_batch.open_run(at / "run").table(["score"]), "columns: 'score' is no column; allowed: "),
    "a column as a text": (
        lambda at: m2f_batch.open_run(at / "run").table("uri"),
        r"columns: 'uri' is a text; .*\['uri",
    ),
    "a column of rows": (lambda at: m2f_batch.open_run(at / "run").rows(["score"]), "columns: 'score' is no column; "),
    "a URI for a row": (
        lambda at: m2f_batch.open_run(at / "run").image("0.png"),
        "row: is of type str; allowed: one row",
    ),
    "rows for a row": (
        lambda at: m2f_batch.open_run(at / "run").segments(m2f_batch.open_run(at / "run").sample(2)),
        "row: is of type list; allowed: one row",
    ),
    "a text of rows": (lambda at: m2f_batch.open_run(at / "run").sample("3"), "n: '3' is not allowed; allowed: 0, 1, "),
    "less than no rows": (lambda at: m2f_batch.open_run(at / "run").sample(-1), "n: -1 is not allowed; allowed: 0, 1"),
    "image of a run": (lambda at: m2f_batch.open_run(at / "run").row("none.png"), "uri: 'none.png' is none of the 4"),
    "no image of a run": (lambda at: m2f_batch.open_run(at / "run").row(""), "uri: a URI must not be empty"),
}


def pickled(at: Path) -> Path:
    """A model as people have it from older releases of transformers."""
    (at / "pickled").mkdir(exist_ok=True)
    for name in ("config.json", "preprocessor_config.json"):
        (at / "pickled" / name).write_text((DEMO_MODEL / name).read_text())
    (at / "pickled" / "pytorch_model.bin").write_bytes(b"")
    return at / "pickled"


# those that are about several arguments at once, or about none
WITHOUT_FIELD = {"no steps", "both words", "a dotted key", "a window"}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_a_value_error_in_words_of_python(
    name: str, folder: Path, off_ray: None, capfd: pytest.CaptureFixture[str]
):
    if not (folder / "run" / "_SUCCESS").exists():
        labeled(folder)
    call, message = MISTAKES[name]
    with pytest.raises(ValueError, match=f"^{message}") as raised:
        call(folder)
    text = str(raised.value)
    assert isinstance(raised.value, m2f_batch.UsageError)
    assert raised.value.field == ("" if name in WITHOUT_FIELD else text.partition(":")[0])
    if name == "value":
        assert raised.value.value == 3 and raised.value.allowed == "a number from 0 to 1"
    keys = {key for kind in (SegmentConfig, FinetuneConfig) for key, _ in fields_of(kind)}
    said = re.sub("'[^']*'|m2f-batch convert-checkpoint.*", "", text.replace(str(folder), ""))
    assert not [key for key in (*keys, "--", "m2f-batch ", "DEST", "SRC", "RUN", "URI:") if key in said], text
    assert not (folder / "x").exists(), "nothing was written"
    assert capfd.readouterr() == ("", "")
