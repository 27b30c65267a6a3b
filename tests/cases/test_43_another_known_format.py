"""Case 43: a good file given under another format's name, or of a format that is not read: one line says what it is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.hand_made import Picture, make_run

from m2f_batch.cli import main
from m2f_batch.datasets import format as records
from m2f_batch.datasets.recognize.annotations import look_at

COMMANDS = {
    "lint": lambda place, form: ["lint", place, "--format", form],
    "convert": lambda place, form: ["convert", place, f"{place}.out", "--from", form, "--to", "coco"],
    "finetune": lambda place, form: [
        *("finetune", place, f"{place}.out", f"--set=data.format={form}"),
        *("--set=train.steps=1", "--set=train.batch_size=1"),
    ],
}
# what is given, relative to the case; what it looks like
PLACES = {
    "coco/train.json": ("coco", "COCO"),
    "labelme": ("labelme", "labelme"),
    "labelme/p0.json": ("labelme", "labelme"),
    "yolo/data.yaml": ("yolo", "a YOLO dataset"),
    "panoptic/train.json": ("coco-panoptic", "COCO panoptic"),
    "png/masks": ("semantic-png", "a folder of mask PNGs"),
}
FORMS = ("coco", "coco-panoptic", "semantic-png", "instance-png", "yolo", "labelme")
PAIRS = [
    (place, form)
    for place, (own, _) in PLACES.items()
    for form in FORMS
    if form != own and {form, own} != {"semantic-png", "instance-png"}
]


@pytest.fixture
def case(shared_cases, tmp_path) -> Path:
    """A copy of the case, with a panoptic set and a folder of class PNGs beside its three formats."""
    folder = Path(shutil.copytree(shared_cases / "43-another-known-format", tmp_path / "case"))
    shutil.copytree(shared_cases / "16-panoptic-png-kinds/palette", folder / "panoptic")
    for name in ("masks", "images"):
        (folder / "png" / name).mkdir(parents=True)
    Image.fromarray(np.eye(40, dtype=np.uint8)).save(folder / "png/masks/a.png")
    Image.new("RGB", (40, 40)).save(folder / "png/images/a.jpg")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("place", "form"), PAIRS)
def test_each_format_under_each_other_name(place, form, command, case, capsys):
    own, words = PLACES[place]
    assert main(COMMANDS[command](str(case / place), form)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    option = {"convert": f"--from {own}", "finetune": f"--set data.format={own}"}.get(command, f"--format {own}")
    field = "SRC" if command == "convert" else "data.train"
    last = said.err.splitlines()[-1]
    assert last == f"m2f-batch {command}: {field}: {str(case / place)!r} looks like {words}: give {option}"


@pytest.mark.parametrize(
    ("folder", "form", "file", "words"),
    [
        ("coco", "coco", "coco/train.json", "COCO"),
        ("coco", "labelme", "coco/train.json", "COCO"),
        ("tree", "coco", "tree/annotations/instances_train.json", "COCO"),
        ("yolo", "yolo", "yolo/data.yaml", "a YOLO dataset"),
        ("yolo", "coco", "yolo/data.yaml", "a YOLO dataset"),
    ],
)
def test_a_folder_in_place_of_its_file(folder, form, file, words, case, capsys):
    own = "coco" if folder == "tree" else PLACES[file][0]
    (case / "tree" / "annotations").mkdir(parents=True)
    for name in ("captions_train", "image_info_train", "instances_train"):
        shutil.copy(case / "coco/train.json", case / "tree" / "annotations" / f"{name}.json")
    assert main(["lint", str(case / folder), "--format", form]) == 2
    option = "" if own == form else f"--format {own} and "
    wanted = f"{str(case / folder)!r} looks like {words}: give {option}its file {str(case / file)!r}\n"
    assert capsys.readouterr().err.endswith(wanted)


RESULT = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "score": 0.5}
NOT_READ = {
    "results.json": (json.dumps([RESULT]), "a list of COCO results, which are predictions"),
    "tasks.json": ('[{"id": 1, "data": {"image": "a.jpg"}, "annotations": []}]', "a JSON of Label Studio"),
    "min.json": ('[{"image": "a.jpg", "annotation_id": 1, "annotator": 1}]', "a JSON-MIN of Label Studio"),
    "cvat.xml": ('<?xml version="1.0"?>\n<annotations><image id="0" name="a.jpg"/></annotations>', "a CVAT XML"),
    "voc.xml": ("<annotation><object><name>ball</name></object></annotation>", "Pascal VOC XML"),
    "via.json": ('{"a.jpg123": {"filename": "a.jpg", "regions": []}}', "a JSON of the VGG Image Annotator"),
    "via_project.json": ('{"_via_settings": {}, "_via_img_metadata": {}}', "a project of the VGG Image Annotator"),
    "street_polygons.json": ('{"imgHeight": 2, "imgWidth": 2, "objects": []}', "polygons of Cityscapes"),
    "fields.geojson": ('{"type": "FeatureCollection", "features": []}', "GeoJSON"),
    "createml.json": ('[{"image": "a.jpg", "annotations": []}]', "a CreateML JSON"),
    "labelbox.ndjson": ('{"data_row": {"id": "x"}}\n{"data_row": {"id": "y"}}\n', "an export of Labelbox"),
    "darwin.json": ('{"item": {"name": "a.jpg"}, "annotations": []}', "a Darwin JSON"),
    "kaggle.csv": ("ImageId,EncodedPixels\na,1 3\n", "a CSV of Kaggle's run lengths"),
    "set.tfrecord": ("\0\0", "TFRecord"),
    "set.zip": ("PK", "an archive"),
    "sam.json": ('{"image": {"file_name": "a.jpg"}, "annotations": []}', "a JSON of Segment Anything"),
    "datumaro.json": ('{"dm_format_version": "1.0", "infos": {}, "items": []}', "datumaro's own JSON"),
    "isat.json": ('{"info": {"name": "a.jpg"}, "objects": []}', "a JSON of ISAT"),
    "old_labelme.xml": (
        "<annotation><object><name>ball</name><polygon><pt/></polygon></object></annotation>",
        "an XML of the old LabelMe",
    ),
    "supervisely.json": ('{"description": "", "tags": [], "size": {}, "objects": []}', "a Supervisely JSON"),
}


@pytest.mark.parametrize("name", NOT_READ)
@pytest.mark.parametrize("command", COMMANDS)
def test_formats_that_are_not_read_are_named(name, command, tmp_path, capsys):
    content, words = NOT_READ[name]
    (tmp_path / name).write_text(content)
    for form in ("coco", "labelme"):
        assert main(COMMANDS[command](str(tmp_path / name), form)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{str(tmp_path / name)!r} looks like {words}" in line
        assert "which is not read: " in line


def test_folders_of_formats_that_are_not_read(tmp_path, capsys):
    voc, bare = tmp_path / "voc", tmp_path / "bare"
    for folder in (voc / "Annotations", bare / "images", bare / "labels"):
        folder.mkdir(parents=True)
    (voc / "Annotations/a.xml").write_text(NOT_READ["voc.xml"][0])
    (bare / "labels/a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    Image.new("RGB", (8, 8)).save(bare / "images/a.jpg")
    for folder, words in ((voc, "Pascal VOC XML"), (bare, "YOLO labels without their data.yaml")):
        assert main(["lint", str(folder)]) == 2
        assert f"{str(folder)!r} looks like {words}" in capsys.readouterr().err


@pytest.mark.parametrize("name", NOT_READ)
def test_evaluate_names_them_too(name, tmp_path, capsys):
    content, words = NOT_READ[name]
    (tmp_path / name).write_text(content)
    run = make_run(tmp_path / "run", [[Picture("/photos/a.jpg", (12, 16))]], task="instance").uri
    assert main(["evaluate", run, "--ground-truth", str(tmp_path / name)]) == 2
    assert f"{str(tmp_path / name)!r} looks like {words}" in capsys.readouterr().err


@pytest.mark.parametrize(("place", "form"), [pair for pair in PAIRS if pair[1] in ("coco", "yolo", "labelme")])
def test_evaluate_with_another_format_than_the_file_has(place, form, case, capsys):
    own, words = PLACES[place]
    run = make_run(case / "run", [[Picture("/photos/a.jpg", (12, 16))]], task="instance").uri
    assert main(["evaluate", run, "--ground-truth", str(case / place), "--format", form]) == 2
    wanted = f"--ground-truth: {str(case / place)!r} looks like {words}: give --format {own}\n"
    assert capsys.readouterr().err.endswith(wanted)


def test_the_val_side_is_named(case, capsys):
    train, val = str(case / "coco/train.json"), str(case / "labelme")
    assert main(["lint", train, "--val", val]) == 2
    assert f"data.val: {val!r} looks like labelme: give --format labelme" in capsys.readouterr().err


def test_livecell_is_coco(shared_cases):
    """Its annotations are an object in place of a list."""
    place = shared_cases / "32-livecell-dict-annotations/train.json"
    assert look_at(str(place)).form == "coco"


def test_a_large_json_is_told_by_its_words(case, monkeypatch):
    monkeypatch.setattr(records, "PARSED", 10)
    assert look_at(str(case / "coco/train.json")).form == "coco"
    assert look_at(str(case / "panoptic/train.json")).form == "coco-panoptic"
