"""Cases 04, 06, 09, 11, 19 and T6: names of files that are not there as they are written, and hidden ones that are."""

import json
import shutil

import pytest
from pycocotools.coco import COCO

from m2f_batch.cli import main
from m2f_batch.inputs.listing import list_input


def lint(capsys, place, *options):
    code = main(["lint", str(place), *options])
    return code, capsys.readouterr().out


CASES = [
    ("06-coco-backslash/train.json", None, r"(backslashes): 'train\\img0.jpg' is 'train/img0.jpg'"),
    ("11-nfc-nfd-names/train.json", None, "(another Unicode form): 'müller_0.jpg' is 'müller_0.jpg'"),
    ("19-coco-absolute-names/train.json", "pics", "(folders): '/home/annotator/project/pics/img0.jpg' is 'img0.jpg'"),
    ("19-coco-absolute-names/percent.json", "pics", "(percent-encoding): '%69mg0.jpg' is 'img0.jpg'"),
    ("19-coco-absolute-names/urls.json", "pics", "(folders): 'https://storage.example.com/b/img0.jpg' is 'img0.jpg'"),
]


@pytest.mark.parametrize(("file", "images", "text"), CASES)
def test_names_are_read_as_what_is_there_and_said_once(shared_cases, capsys, file, images, text):
    place = shared_cases / file
    options = ["--images", str(place.parent / images)] if images else []
    code, said = lint(capsys, place, *options)
    assert (code, said.count("note    other-name: 1\n")) == (0, 1)
    assert f"{place}: image 1: 4 of 4 names are read as those of files that are there " in said
    plain = said.encode().decode().replace("u\u0308", "ü")
    assert text in plain
    assert "clean   4 images to train on, 3 categories" in said


def test_what_is_written_names_the_files_that_are_there(shared_cases, tmp_path, capsys):
    place = shared_cases / "06-coco-backslash" / "train.json"
    assert main(["convert", str(place), str(tmp_path / "out.json"), "--from", "coco", "--to", "coco"]) == 0
    base = place.parent / "train"
    names = [image["file_name"] for image in COCO(str(tmp_path / "out.json")).dataset["images"]]
    assert names == sorted(path.name for path in base.iterdir())
    assert capsys.readouterr().err.count("4 of 4 names") == 1


def test_input_reads_the_names_of_a_coco_json_so(shared_cases):
    folder = shared_cases / "06-coco-backslash"
    listing = list_input(str(folder / "train.json"))
    assert listing.table["uri"].to_pylist() == [f"{folder}/train/img{number}.jpg" for number in range(4)]
    assert listing.table["coco_id"].to_pylist() == [1, 2, 3, 4]
    assert all(listing.table["version"].to_pylist())
    (note,) = listing.notes
    assert "4 of 4 names are read as those of files that are there (backslashes)" in note


def test_lvis_names_its_images_by_url(shared_cases, capsys):
    place = shared_cases / "09-lvis-coco-url" / "train.json"
    code, said = lint(capsys, place)
    assert code == 0
    text = "4 of 4 images have no 'file_name': their 'coco_url' gives it, as of LVIS (train2017/000000000000.jpg)"
    assert f"{place}: {text}" in said
    code, said = lint(capsys, place, "--images", str(place.parent / "train2017"))  # the folder named twice
    assert code == 0
    assert "(folders): 'train2017/000000000000.jpg' is '000000000000.jpg'" in said


def test_a_folder_named_twice(shared_cases, tmp_path, capsys):
    case = shutil.copytree(shared_cases / "06-coco-backslash", tmp_path / "case")
    document = json.loads((case / "train.json").read_text())
    for image in document["images"]:
        image["file_name"] = image["file_name"].replace("\\", "/")
    (case / "train.json").write_text(json.dumps(document))
    code, said = lint(capsys, case / "train.json", "--images", str(case / "train"))
    assert code == 0
    assert "4 of 4 names are read as those of files that are there (folders): 'train/img0.jpg' is 'img0.jpg'" in said


def test_a_near_miss_is_named(shared_cases, tmp_path, capsys):
    case = shutil.copytree(shared_cases / "06-coco-backslash", tmp_path / "case")
    for folder in ("one", "two"):
        shutil.copytree(case / "train", case / folder)
    shutil.rmtree(case / "train")
    code, said = lint(capsys, case / "train.json")
    assert code == 1
    assert "fault   missing-image: 4" in said
    assert (
        r"4 of 4 names are of no file: 'train\\img0.jpg' is not there, and 'one/img0.jpg' or 'two/img0.jpg' is" in said
    )


def test_urls_without_a_folder_of_images_are_findings_by_name(shared_cases, capsys):
    place = shared_cases / "19-coco-absolute-names" / "urls.json"
    code, said = lint(capsys, place)
    assert code == 1
    assert "fault   unreadable-image: 4\n" in said
    assert (
        "https://storage.example.com/b/img0.jpg: the web is read only where storage.allow (or M2F_BATCH_ALLOW)" in said
    )


def test_hidden_folders_are_skipped_and_counted(shared_cases, capsys):
    case = shared_cases / "04-ipynb-checkpoints"
    if not [*case.rglob(".ipynb_checkpoints")]:
        pytest.skip("this copy of the case has lost its hidden folders")
    code, said = lint(capsys, case / "yolo" / "data.yaml", "--format", "yolo")
    assert code == 0
    assert "1 hidden files are skipped (.ipynb_checkpoints/i1-checkpoint.jpg)" in said
    assert "clean   4 images to train on" in said
    semantic = case / "semantic"
    options = ["--format", "semantic-png", "--images", str(semantic / "images"), "--masks", str(semantic / "masks")]
    code, said = lint(capsys, semantic / "names.txt", *options)
    assert code == 0
    assert "note    hidden-file: 2" in said
    assert "clean   4 images to train on" in said
