"""What a fresh user gives for a dataset that is none, or not where it says: one line, before anything is written."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.hand_made import Picture, box_mask, make_run

import m2f_batch
from m2f_batch.cli import main

SIZE = (12, 16)
TRUTH = {
    "images": [{"id": number, "file_name": f"{number}.png", "height": 64, "width": 64} for number in (1, 2)],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 9, "iscrowd": 0, "area": 8, "segmentation": [[1, 1, 5, 1, 5, 5]]}
    ],
    "categories": [{"id": 9, "name": "cat"}],
}
STEPS = "--set train.steps=5"
UNANNOTATED = (
    "looks like a folder of images without annotations that are read: give the annotations, and this folder as "
)
AN_IMAGE = "'photos/1.png' looks like an image, which holds no annotations: give the annotations, such as a COCO JSON\n"
IN_NO_FORMAT = "is in no format that is known; allowed: coco, coco-panoptic, instance-png, labelme, semantic-png, yolo;"

# what is typed behind m2f-batch, and what the answer says
MISTAKES = [
    # images that are elsewhere: 'photos/1.png' is like '1.png', which is no second line
    (
        f"finetune truth.json out {STEPS}",
        "finetune: data.train: 2 of 2 images were looked for, and none is there, e.g. '",
    ),
    (f"finetune truth.json out {STEPS}", "/1.png'; data.train_images names their folder\n"),
    (
        f"finetune truth.json out {STEPS} --set data.train_images=photos --set data.val=truth.json",
        "data.val: 2 of 2 images were looked for, and none is there, e.g. '",
    ),
    ("convert truth.json out --from coco --to yolo", "convert: SRC: 2 of 2 images are not there, e.g. '"),
    # parts of a data.yaml
    ("evaluate run --ground-truth data.yaml --part test", "evaluate: --part: 'test' is no part of '"),
    ("evaluate run --ground-truth data.yaml --part test", "/data.yaml'; it has train, valid\n"),
    ("convert data.yaml out --from yolo --to coco --part training", "convert: --part: 'training' is no part of '"),
    (f"finetune names.yaml out {STEPS} --set data.format=yolo", "finetune: data.train: 'train' is no part of '"),
    ("lint names.yaml --format yolo", "/names.yaml'; --images names the folder of the images\n"),
    # images, and files that are empty or broken, where annotations belong
    (f"finetune photos/1.png out {STEPS}", f"data.train: {AN_IMAGE}"),
    ("lint photos/1.png", f"data.train: {AN_IMAGE}"),
    ("convert photos/1.png out --from coco --to yolo", f"SRC: {AN_IMAGE}"),
    ("evaluate run --ground-truth photos/1.png", f"--ground-truth: {AN_IMAGE}"),
    (
        "export run out.json --ground-truth photos/1.png",
        "--ground-truth photos/1.png: it is not valid JSON: it is a binary file, as an image is; give a COCO JSON\n",
    ),
    ("lint image.json", "image.json' is not valid JSON: it is a binary file, as an image is\n"),
    ("lint empty.json", "empty.json' is not valid JSON: it is empty\n"),
    ("evaluate run --ground-truth empty.json", "--ground-truth: 'empty.json' is not valid JSON: it is empty\n"),
    ("evaluate run --ground-truth broken.json", "'broken.json' is not valid JSON: Expecting value: line 1 column 12"),
    ("evaluate run --ground-truth list.json", f"--ground-truth: 'list.json' {IN_NO_FORMAT} name it with --format\n"),
    ("evaluate run --ground-truth notes.txt", f"--ground-truth: 'notes.txt' {IN_NO_FORMAT} name it with --format\n"),
    # folders of images
    (f"finetune photos out {STEPS}", f"data.train: 'photos' {UNANNOTATED}data.train_images\n"),
    (f"finetune jpegs out {STEPS}", f"data.train: 'jpegs' {UNANNOTATED}data.train_images\n"),
    ("lint photos", f"data.train: 'photos' {UNANNOTATED}--images\n"),
    ("convert photos out --from coco --to yolo", f"SRC: 'photos' {UNANNOTATED}--images\n"),
    ("evaluate run --ground-truth photos", f"--ground-truth: 'photos' {UNANNOTATED}--images\n"),
    (f"finetune photos out {STEPS} --set data.format=semantic-png", ".png: has no image of its name; data.train_im"),
    # which these are not
    ("lint colors", "data.train: 'colors' looks like a folder of mask PNGs: give --format semantic-png\n"),
    ("lint beside", "data.train: 'beside' looks like a folder of mask PNGs: give --format semantic-png\n"),
    ("lint jpegs --format semantic-png", "has no PNG; it has 1 .jpg: JPEG is lossy and makes values that nobody drew"),
]

IN_PYTHON: list[tuple[Callable[[], object], str]] = [
    (
        lambda: m2f_batch.finetune("truth.json", "out", steps=5),
        r"dataset: 2 of 2 images were looked for, and none is there, e\.g\. '.*'; train_images names their folder$",
    ),
    (
        lambda: m2f_batch.convert("truth.json", "out", format="coco", to="yolo"),
        r"source: 2 of 2 images are not there, e\.g\. '.*'; images names their folder$",
    ),
    (
        lambda: m2f_batch.convert("data.yaml", "out", format="yolo", to="coco", part="training"),
        "part: 'training' is no part of '.*'; it has train, valid$",
    ),
    (
        lambda: m2f_batch.evaluate("run", "data.yaml", part="test"),
        "part: 'test' is no part of '.*'; it has train, valid$",
    ),
    (lambda: m2f_batch.finetune("photos/1.png", "out", steps=5), f"dataset: {AN_IMAGE.strip()}$"),
    (
        lambda: m2f_batch.export("run", "out.json", "coco", ground_truth="photos/1.png"),
        "ground_truth photos/1.png: it is not valid JSON: it is a binary file, as an image is; give a COCO JSON$",
    ),
    (lambda: m2f_batch.evaluate("run", "broken.json"), "ground_truth: 'broken.json' is not valid JSON: Expecting"),
    (lambda: m2f_batch.evaluate("run", "list.json"), f"ground_truth: 'list.json' {IN_NO_FORMAT} name it with format$"),
    (lambda: m2f_batch.lint("photos"), f"dataset: 'photos' {UNANNOTATED}train_images$"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    make_run(folder / "run", [[Picture("/p/a.jpg", SIZE, [(0, 0.9, box_mask(SIZE, 1, 1, 3, 3))])]])
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8))
    for name in ("photos", "jpegs", "colors", "beside"):
        (folder / name).mkdir()
    for name in ("1.png", "2.png"):
        noise.save(folder / "photos" / name)
    (folder / "photos/0-broken.png").write_bytes((folder / "photos/1.png").read_bytes()[:500])
    (folder / "photos/about.txt").write_text("taken in May")
    noise.save(folder / "jpegs/1.jpg")
    for name in ("1.png", "2.png"):
        noise.quantize(64).convert("RGB").save(folder / "colors" / name)
    noise.save(folder / "beside/1.png")
    noise.convert("L").save(folder / "beside/1_mask.png")
    (folder / "image.json").write_bytes((folder / "photos/1.png").read_bytes())
    (folder / "truth.json").write_text(json.dumps(TRUTH))
    (folder / "data.yaml").write_text("train: a\nvalid: b\nnames: {0: cat}\n")
    (folder / "names.yaml").write_text("path: .\nnames: {0: cat}\n")
    (folder / "empty.json").write_text("")
    (folder / "broken.json").write_text('{"images": ')
    (folder / "list.json").write_text("[1, 2]")
    (folder / "notes.txt").write_text("hello\n")
    return folder


@pytest.mark.parametrize(("line", "said"), MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(
    line: str, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    assert main(shlex.split(line)) == 2
    out, errors = capsys.readouterr()
    assert said in errors and out == ""
    assert errors.startswith("m2f-batch") and errors.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("call", "said"), IN_PYTHON, ids=[said.partition(":")[0] for _, said in IN_PYTHON])
def test_a_mistake_in_python_is_in_its_words(
    call: Callable[[], object], said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(m2f_batch.UsageError, match=f"^{said}"):
        call()
    assert not (folder / "out").exists() and not (folder / "out.json").exists()
