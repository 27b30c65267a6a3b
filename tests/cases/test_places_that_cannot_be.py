"""Root cause F12: a URL or path that cannot be is a finding with file, entry and value, and ends no command by itself.

The value is shown without its query and without keys.
"""

import json

import pytest
from PIL import Image
from support.hand_made import Picture, box_mask, make_run

from m2f_batch.cli import main

SIZE = (40, 50)  # height, width
SECRET = "c2VjcmV0c2VjcmV0c2VjcmV0"
# as written, and what of it is shown
NAMES = {
    f"gopher://host/a/x.jpg?key={SECRET}": "'gopher://host/a/x.jpg' names no file: gopher://...: no scheme of files",
    "s3://us er@b/x.jpg": "'s3://us er@b/x.jpg' names no file: s3://...: a host or bucket has no",
    f"https://h/y.jpg?X-Amz-Signature={'a' * 64}": "'https://h/y.jpg' names no file: a URI holds a signature or a key",
    f"s3://AKIA:{SECRET}@bucket/k.jpg": "@bucket/k.jpg' names no file: s3://...: keys and passwords come from",
}


@pytest.fixture
def truth(tmp_path):
    """Two good images, and one of each name that cannot be."""
    images, shapes = [], []
    for number, name in enumerate(["a.png", "b.png", *NAMES], 1):
        images.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        box = [2 * number, 3, 20, 21]
        corners = [box[0], 3, box[0] + 20, 3, box[0] + 20, 24, box[0], 24]
        shape = {"id": number, "image_id": number, "category_id": 17, "segmentation": [corners]}
        shapes.append(shape | {"bbox": box, "area": 420})
    for name, color in (("a.png", "red"), ("b.png", "blue")):
        image = Image.linear_gradient("L").resize(SIZE[::-1]).convert("RGB")
        image.paste(color, (0, 0, 20, 20))
        image.save(tmp_path / name)
    tree = {"images": images, "annotations": shapes, "categories": [{"id": 17, "name": "cat"}]}
    (tmp_path / "truth.json").write_text(json.dumps(tree))
    return tmp_path / "truth.json"


def test_lint_finds_each_and_goes_on(truth, capsys):
    report = truth.parent / "found.json"
    assert main(["lint", str(truth), "--json", str(report)]) == 1
    said = capsys.readouterr()
    assert said.err == ""
    assert "fault   malformed: 4\n" in said.out
    for number, shown in enumerate(NAMES.values(), 3):
        (line,) = [line for line in said.out.splitlines() if f"{truth}: image {number}: " in line]
        assert shown in line
    for text in (said.out, report.read_text()):
        assert SECRET not in text
        assert "a" * 64 not in text
    assert len(json.loads(report.read_text())["findings"]) == 1
    assert "2 images to train on" in said.out


def test_the_others_name_the_entry(truth, tmp_path, capsys):
    picture = Picture(str(tmp_path / "a.png"), SIZE, [(0, 0.9, box_mask(SIZE, 3, 2, 21, 20))])
    run = make_run(tmp_path / "run", [[picture]], task="instance", input_uri=str(tmp_path)).uri
    commands = (
        ["convert", str(truth), f"{truth}.out", "--from", "coco", "--to", "coco"],
        ["evaluate", run, "--ground-truth", str(truth)],
        ["finetune", str(truth), f"{truth}.out", "--set=train.steps=1"],
    )
    for command in commands:
        assert main(command) == 2
        said = capsys.readouterr().err
        assert f"{truth}: image 3: 'gopher://host/a/x.jpg' names no file: " in said
        assert SECRET not in said


def test_drop_faulty_leaves_them_out(truth, tmp_path, capsys):
    out = tmp_path / "clean.json"
    assert main(["convert", str(truth), str(out), "--from", "coco", "--to", "coco", "--drop-faulty"]) == 0
    assert [image["file_name"] for image in json.loads(out.read_text())["images"]] == ["a.png", "b.png"]
    listed = (tmp_path / "clean.left-out.csv").read_text()
    assert listed.count("names no file") == 4
    assert SECRET not in listed
    assert main(["lint", str(out)]) == 0
