"""An export takes the ids and categories of a ground truth, and refuses one that does not fit."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from support.exported_runs import exported, pictures, truth_of
from support.hand_made import Picture, make_run

from m2f_batch.datasets.annotated import AnnotatedImages
from m2f_batch.datasets.format import Format, Target
from m2f_batch.errors import UsageError
from m2f_batch.exports.command import export
from m2f_batch.runs.directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "run", pictures())


def test_ids_and_categories_of_a_ground_truth(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = {"A b.jpg": 90, "B.jpg": 5, "more/c.jpg": 7, "é.jpg": 8, "日本.jpg": 1}
    units = [[p for p in unit if p.uri != "/photos/日本.jpg"] for unit in pictures()]
    truth = truth_of(units, {0: 3, 1: 900, 2: 4}, ids)
    truth["categories"] = [category for category in truth["categories"] if category["id"] != 4]  # no sky
    truth["categories"].append({"id": 77, "name": "unicorn"})
    truth["images"].append({"id": 2, "file_name": "nowhere.jpg", "height": 1, "width": 1})
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    tree = exported(run, tmp_path / "out.json", ground_truth=tmp_path / "truth.json")
    assert {image["file_name"]: image["id"] for image in tree["images"]} == {
        name: ids[name] for name in ids if name != "日本.jpg"
    }
    assert tree["categories"] == truth["categories"]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in tree["annotations"]] == [
        *((1, 90, 3), (2, 7, 900), (3, 8, 900), (4, 8, 900))
    ]
    said = capsys.readouterr().out
    assert f"{tmp_path}/out.json: 4 images, 4 segments; license of the model's weights: mit" in said
    assert "left out, since --ground-truth does not name them: sky" in said
    assert "left out: 1 images that --ground-truth does not hold, e.g. /photos/日本.jpg" in said
    assert "left out: 1 images that failed, 0 that remain" in said


def test_a_ground_truth_with_bare_names_or_longer_paths(run: RunDirectory, tmp_path: Path) -> None:
    names = {"val/A b.jpg": 4, "B.jpg": 5, "./more/c.jpg": 6, "x/é.jpg": 8, "y/é.jpg": 9}
    images = [{"id": number, "file_name": name} for name, number in names.items()]
    truth = {"images": images, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    tree = exported(run, tmp_path / "out.json", ground_truth=tmp_path / "truth.json")
    # é.jpg is left out: its name stands for two images
    assert {image["file_name"]: image["id"] for image in tree["images"]} == {"A b.jpg": 4, "B.jpg": 5, "more/c.jpg": 6}


def test_a_ground_truth_through_pandas_or_with_objects_for_lists(run: RunDirectory, tmp_path: Path) -> None:
    truth = {
        "images": {"a": {"id": 4.0, "file_name": "A b.jpg"}},
        "categories": {"7": {"id": 7.0, "name": "cat"}, "8": {"id": 8.0, "name": "cat"}},
        "annotations": {"1": {"category_id": 8.0}},
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    tree = exported(run, tmp_path / "out.json", ground_truth=tmp_path / "truth.json")
    assert [json.dumps(image["id"]) for image in tree["images"]] == ["4"]
    assert {json.dumps(entry["category_id"]) for entry in tree["annotations"]} == {"8"}


def test_two_images_for_one_of_the_ground_truth_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [[Picture("/photos/x/a.jpg"), Picture("/photos/y/a.jpg")]])
    truth = {"images": [{"id": 4, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(UsageError, match=r"--ground-truth: its image 4 may be '/photos/x/a.jpg' or '/photos/y/a.jpg'"):
        export(run.uri, str(tmp_path / "out.json"), "coco", str(tmp_path / "truth.json"))
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not valid JSON"),
        ("[" * 200_000, "is not valid JSON"),
        ("[]", "a list 'images'"),
        ('{"images": 5, "categories": []}', "a list 'images', each with id and file_name"),
        ('{"images": [{"id": [1], "file_name": "a"}], "categories": []}', "a list 'images'"),
        ('{"images": [{"id": "1", "file_name": "a"}], "categories": []}', "none of its categories (it has none)"),
        (
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "dog"}]}',
            "have no image in common ('a.jpg', ... and '/photos/A b.jpg', ...)",
        ),
        ('{"images": [], "categories": [{"id": 1}]}', "a list 'categories', each with id and name"),
        ('{"images": [], "categories": [5]}', "a list 'categories'"),
        ('{"images": [], "categories": [{"id": 1, "name": "sofa"}]}', "none of its categories (sofa, ...)"),
    ],
)
def test_ground_truths_that_are_none(run: RunDirectory, tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "truth.json").write_text(text)
    with pytest.raises(UsageError) as caught:
        export(run.uri, str(tmp_path / "out.json"), "coco", str(tmp_path / "truth.json"))
    assert str(caught.value).startswith(f"--ground-truth {tmp_path}/truth.json: ") and told in str(caught.value)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("name", ["gone.json", "", "gopher://x/y.json"])
def test_ground_truths_that_cannot_be_read(run: RunDirectory, tmp_path: Path, name: str) -> None:
    place = name if "://" in name else f"{tmp_path}/{name}"
    with pytest.raises(UsageError, match="--ground-truth "):
        export(run.uri, str(tmp_path / "out.json"), "coco", place)


def test_a_ground_truth_of_failed_images_alone_is_no_export(run: RunDirectory, tmp_path: Path) -> None:
    truth = {"images": [{"id": 4, "file_name": "broken.jpg"}], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    for form in ("coco", "coco-results"):
        with pytest.raises(UsageError, match="it holds none of the images that are labeled"):
            export(run.uri, str(tmp_path / "out.json"), form, str(tmp_path / "truth.json"))
    assert not (tmp_path / "out.json").exists()


def test_a_folder_is_not_written_for_a_ground_truth_of_failed_images(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(splits: Mapping[str, AnnotatedImages], target: Target) -> Iterator[str]:
        Path(target.dest).mkdir()
        yield from (image.name for images in splits.values() for image in images.images())

    toy = Format(name="toy", help="a folder", write=write)
    monkeypatch.setattr("m2f_batch.exports.command.run_targets", lambda: {"toy": toy})
    truth = {"images": [{"id": 4, "file_name": "broken.jpg"}], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(UsageError, match="it holds none of the images that are labeled"):
        export(run.uri, str(tmp_path / "out"), "toy", str(tmp_path / "truth.json"))
    assert not (tmp_path / "out").exists()
    assert export(run.uri, str(tmp_path / "out"), "toy").said and (tmp_path / "out").is_dir()


def test_a_name_twice_in_a_panoptic_ground_truth(run: RunDirectory, tmp_path: Path) -> None:
    """Its annotations name categories in their segments."""
    truth = {
        "images": [{"id": 7, "file_name": "more/c.jpg"}],
        "annotations": [{"image_id": 7, "segments_info": [{"id": 1, "category_id": 5}]}],
        "categories": [{"id": 5, "name": "dog"}, {"id": 9, "name": "dog"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    tree = exported(run, tmp_path / "out.json", ground_truth=tmp_path / "truth.json")
    assert [annotation["category_id"] for annotation in tree["annotations"]] == [5]
    truth["annotations"] = []
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(UsageError, match="'dog' is the name of the categories 5, 9, and none of them has"):
        export(run.uri, str(tmp_path / "out.json"), "coco", str(tmp_path / "truth.json"))
