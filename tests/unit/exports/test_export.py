"""Exports against pycocotools: what was in the rows is in the files, under the right ids."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support.exported_runs import SIZE, exported, labelled, pictures, truth_of
from support.hand_made import Picture, box_mask, make_run
from support.s3_servers import S3Endpoint

from m2f_batch.datasets.coco.writer import coco_pieces, results_pieces
from m2f_batch.errors import UsageError
from m2f_batch.exports.command import export
from m2f_batch.exports.ids import coco_ids
from m2f_batch.exports.run_images import RunImages, file_name
from m2f_batch.runs.directory import RunDirectory
from m2f_batch.runs.reader import open_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "run", pictures())


def test_coco_holds_what_the_rows_hold(run: RunDirectory, tmp_path: Path) -> None:
    assert run.annotation_files() != [  # the files' order is not that of the uris
        uri for _, uri in sorted((run.read_annotations(uri)["uri"][0].as_py(), uri) for uri in run.annotation_files())
    ]
    tree = exported(run, tmp_path / "new" / "folder" / "out.json")
    coco = COCO(str(tmp_path / "new" / "folder" / "out.json"))
    expected = labelled(pictures())
    assert [(image["id"], image["file_name"], (image["height"], image["width"])) for image in tree["images"]] == [
        (number, picture.uri.removeprefix("/photos/"), picture.size) for number, picture in enumerate(expected, 1)
    ]
    assert sorted(coco.anns) == list(range(1, 7))
    assert [(c["id"], c["name"], c["isthing"]) for c in tree["categories"]] == [
        *((17, "cat", 1), (18, "dog", 1), (200, "sky", 0))
    ]
    for number, picture in enumerate(expected, 1):
        found = coco.loadAnns(sorted(coco.getAnnIds(imgIds=[number])))
        assert len(found) == len(picture.segments)
        for annotation, (label, score, mask) in zip(found, picture.segments, strict=True):
            assert np.array_equal(coco.annToMask(annotation).astype(bool), mask)
            ys, xs = np.nonzero(mask)
            assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0
            assert annotation["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert annotation["category_id"] == (17, 18, 200)[label]
            assert annotation["score"] == pytest.approx(score)
    assert tree["info"]["model_license"] == "mit" and tree["info"]["run_id"] == "0123"


@pytest.mark.parametrize("task", ["instance", "semantic"])
def test_isthing_is_said_of_panoptic_categories_only(tmp_path: Path, task: str) -> None:
    tree = exported(make_run(tmp_path / "run", pictures(), task=task), tmp_path / "out.json")
    assert all("isthing" not in category for category in tree["categories"])


def test_ids_of_a_coco_json_given_as_input_are_kept(tmp_path: Path) -> None:
    uris = [picture.uri for unit in pictures() for picture in unit]
    ids = {uri: 1000 - 7 * number for number, uri in enumerate(uris)}
    run = make_run(tmp_path / "run", pictures(), input_uri="/lists/val.json", root="/photos", coco_ids=ids)
    tree = exported(run, tmp_path / "out.json")
    assert [(image["file_name"], image["id"]) for image in tree["images"]] == [
        (picture.uri.removeprefix("/photos/"), ids[picture.uri]) for picture in labelled(pictures())
    ]
    assert {annotation["image_id"] for annotation in tree["annotations"]} < set(ids.values())
    # a manifest's own column of that name is the user's, and means nothing to us
    run = make_run(tmp_path / "run2", pictures(), input_uri="/lists/val.csv", coco_ids=dict.fromkeys(uris, 5))
    assert [image["id"] for image in exported(run, tmp_path / "out.json")["images"]] == [1, 2, 3, 4, 5]


def test_results_reach_full_marks_against_the_matching_truth(run: RunDirectory, tmp_path: Path) -> None:
    names = [picture.uri.removeprefix("/photos/") for picture in labelled(pictures())]
    ids = {name: 50 - number for number, name in enumerate(names)}
    truth = truth_of(pictures(), {0: 3, 1: 900, 2: 4}, ids)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    results = exported(run, tmp_path / "results.json", "coco-results", tmp_path / "truth.json")
    assert len(results) == 6 and set(results[0]) == {"image_id", "category_id", "segmentation", "score"}
    gt = COCO(str(tmp_path / "truth.json"))
    for kind in ("segm", "bbox"):
        evaluation = COCOeval(gt, gt.loadRes(str(tmp_path / "results.json")), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0)  # AP
        assert evaluation.stats[8] == pytest.approx(1.0)  # AR
    own = COCO()
    own.dataset = exported(run, tmp_path / "own.json")
    own.createIndex()
    exported(run, tmp_path / "own-results.json", "coco-results")
    assert len(own.loadRes(str(tmp_path / "own-results.json")).anns) == 6


def test_segments_without_a_pixel_are_results_alone(tmp_path: Path) -> None:
    segments = [(0, 0.9, box_mask(SIZE, 2, 3, 10, 20)), (1, 0.8, np.zeros(SIZE, bool))]
    make_run(tmp_path / "run", [[Picture("/photos/a.jpg", SIZE, segments)]], task="instance")
    run_uri = str(tmp_path / "run")
    whole = export(run_uri, str(tmp_path / "coco.json"), "coco")
    assert "left out: 1 segments that have no pixel" in list(whole.lines())
    assert [each["area"] for each in json.loads((tmp_path / "coco.json").read_text())["annotations"]] == [200]
    results = export(run_uri, str(tmp_path / "results.json"), "coco-results")
    assert not any("no pixel" in line for line in results.lines())
    assert [each["score"] for each in json.loads((tmp_path / "results.json").read_text())] == pytest.approx([0.9, 0.8])


def test_rows_are_read_a_unit_at_a_time(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[tuple[str, ...]] = []
    read = RunDirectory.read_annotations

    def counted(self: RunDirectory, uri: str, columns: list[str] | None = None) -> Any:
        reads.append(tuple(columns or ()))
        return read(self, uri, columns)

    monkeypatch.setattr(RunDirectory, "read_annotations", counted)
    opened = open_run(run.uri)
    pieces = coco_pieces(RunImages(opened, coco_ids(opened, None)), "RUN", Counter())
    assert json.loads(next(pieces).rpartition(', "images": [')[0] + "}")["categories"][2]["id"] == 200
    assert reads == []
    pieces = results_pieces(RunImages(opened, coco_ids(opened, None)))
    counts = []
    for _ in range(7):  # "[", and six segments
        next(pieces)
        counts.append(sum("segments" in columns for columns in reads))
    assert counts == [0, 1, 1, 3, 3, 3, 4]  # the second unit holds the image that failed
    assert all("segments" in columns or columns == ("uri",) for columns in reads)


def test_a_run_without_a_labelled_image_is_no_export(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [[Picture("/photos/a.jpg", remains=True)], [pictures()[1][0]]])
    for form in ("coco", "coco-results"):
        with pytest.raises(UsageError, match=r"run has no labeled image to export \(1 failed, 1 remain\)"):
            export(run.uri, str(tmp_path / "out.json"), form)
    assert not (tmp_path / "out.json").exists()


def test_an_image_of_the_run_is_not_written_over(tmp_path: Path) -> None:
    image = tmp_path / "photos/a.png"
    image.parent.mkdir()
    image.write_bytes(b"PNG")
    run = make_run(tmp_path / "run", [[Picture(str(image))]])
    for dest in (str(image), f"{image.parent}/../photos/a.png"):
        with pytest.raises(UsageError) as caught:
            export(run.uri, dest, "coco")
        assert str(caught.value) == f"DEST: {dest!r} is an image of the run; give another name"
    assert image.read_bytes() == b"PNG"


def test_results_without_a_segment_are_said_to_be_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", [[Picture("/photos/a.jpg")]])
    assert exported(run, tmp_path / "out.json", "coco-results") == []
    assert "warning: there is no segment to export, and pycocotools takes no empty list" in capsys.readouterr().out
    assert exported(run, tmp_path / "out.json")["images"] == [
        {"id": 1, "file_name": "a.jpg", "height": 12, "width": 16}
    ]
    assert "out.json: 1 images, 0 segments; " in (said := capsys.readouterr().out)
    assert "warning: there is no segment to export" in said


def test_what_cannot_be_exported_is_refused_before_anything_is_written(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    before = sorted(os.walk(tmp_path))
    for run_uri, dest, form, told in (
        (run.uri, "new/out.json", "yolo2", "--format: 'yolo2' is not known; allowed: coco, coco-results"),
        (str(tmp_path), "new/out.json", "coco", "holds no run.json"),
        (run.uri, "folder", "coco", "is a folder; give the name of a file in it"),
        (run.uri, "new/", "coco", "is a folder; give the name of a file in it"),
    ):
        with pytest.raises(UsageError) as caught:
            export(run_uri, f"{tmp_path}/{dest}", form)
        assert told in str(caught.value)
    for dest in ("", "gopher://a/b.json"):
        with pytest.raises(UsageError, match="DEST: "):
            export(run.uri, dest, "coco")
    assert sorted(os.walk(tmp_path)) == before


def test_an_earlier_export_is_replaced_whole(run: RunDirectory, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text("\n")  # or empty, as mktemp makes it
    for form in ("coco", "coco", "coco-results", "coco-results", "coco"):
        fresh = exported(run, tmp_path / "fresh" / f"{form}.json", form)
        assert exported(run, out, form) == fresh
        for is_sorted in (True, False):  # as other programs write it
            again = json.dumps(json.loads(out.read_text()), indent=2, sort_keys=is_sorted)
            out.write_text(again + " " * 100_000)
            assert exported(run, out, form) == fresh
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "out.json", "run"]
    (tmp_path / "none").mkdir()
    none = make_run(tmp_path / "none/run", [[Picture("/photos/a.jpg")]])
    assert exported(none, tmp_path / "none/out.json", "coco-results") == []
    assert exported(none, tmp_path / "none/out.json", "coco-results") == []


@pytest.mark.parametrize("text", ["to do: buy milk", '{"images": []}', '{"info": {"year": 2017}}', "[1]", "\xff"])
def test_a_file_that_no_export_has_written_is_kept(run: RunDirectory, tmp_path: Path, text: str) -> None:
    out = tmp_path / "out.json"
    out.write_text(text, encoding="latin-1")
    for form in ("coco", "coco-results"):
        with pytest.raises(UsageError) as caught:
            export(run.uri, str(out), form)
        problem = f"DEST: {str(out)!r} is there already, and is no earlier export; remove it, or choose another DEST"
        assert str(caught.value) == problem
    assert out.read_text(encoding="latin-1") == text


def test_export_to_a_bucket(run: RunDirectory, tmp_path: Path, moto_s3: S3Endpoint) -> None:
    tree = exported(run, tmp_path / "out.json")
    export(run.uri, f"{moto_s3.uri}/a b/é.json", "coco")
    body = moto_s3.client().get_object(Bucket=moto_s3.bucket, Key="a b/é.json")["Body"].read()
    assert json.loads(body) == tree


@pytest.mark.parametrize(
    ("uri", "source", "root", "name"),
    [
        ("/p/a/b.jpg", "/p", None, "a/b.jpg"),
        ("/p/a/b.jpg", "/p/", None, "a/b.jpg"),
        ("/p/a/b.jpg", "p", None, "a/b.jpg"),  # relative, as run.json has it
        ("/p/a/b.jpg", "file:///p", None, "a/b.jpg"),
        ("/p/a/b.jpg", "/p/a/b.jpg", None, "b.jpg"),
        ("/p/a/b.jpg", "/p/*/b*.jpg", None, "a/b.jpg"),
        ("/p/a/b.jpg", "/p/list.csv", None, "a/b.jpg"),
        ("/p/a/b.jpg", "/elsewhere/val.json", "/p/a", "b.jpg"),
        ("/p/a/b.jpg", "/elsewhere/list.txt", None, "/p/a/b.jpg"),
        ("/pa/b.jpg", "/p", None, "pa/b.jpg"),
        ("s3://bucket/p/é b.jpg", "s3://bucket/p/", None, "é b.jpg"),
        ("s3://bucket/p/a.jpg", "s3://bucket", None, "p/a.jpg"),
        ("s3://bucket/p/a.jpg", "s3://bucket/*/a.jpg", None, "p/a.jpg"),
        ("s3://other/p/a.jpg", "s3://bucket/list.csv", None, "s3://other/p/a.jpg"),
    ],
)
def test_file_names(uri: str, source: str, root: str | None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert file_name(uri, source, root) == name
