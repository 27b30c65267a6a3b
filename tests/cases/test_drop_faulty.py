"""``convert --drop-faulty``: a copy that lint passes, and a list of what was left out and why; whole images only."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from support.planted_faults import CLEAN, FAULTS, coco, edited, panoptic, photograph, yolo

from m2f_batch.cli import main

# corrected by what is written, and of no image: nothing is left out for them
WRITTEN_ANEW = ("annotation-id-zero", "duplicate-annotation-id")
# of the whole dataset
OF_ALL = ("duplicate-category-name",)
PLANTED = [fault for fault in FAULTS if fault.kind not in ("leaked-image", "group-on-both-sides")]


def converted(options, folder: Path, to: str, *more: str) -> tuple[int, Path, list[dict[str, str]]]:
    """Exit code, what was written, and the list of what was left out."""
    dest = folder.parent / f"{folder.name}-clean"
    places = {"--images": "data.train_images", "--masks": "data.train_masks"}
    given = [word for flag, key in places.items() if key in options for word in (flag, options[key])]
    queries = options.get("model.config", {}).get("num_queries")
    given += [] if queries is None else ["--queries", str(queries)]
    command = ["convert", options["data.train"], str(dest), "--from", options["data.format"], "--to", to, *given]
    code = main([*command, "--drop-faulty", *more])
    file = dest / "left-out.csv"
    assert dest.exists() == (code == 0)
    with file.open(newline="") if code == 0 else (folder / "nothing").open("w+") as lines:
        return code, dest, [*csv.DictReader(lines)]


def linted(dest: Path, to: str, common: Path, *more: str) -> int:
    if to == "yolo":
        return main(["lint", str(dest / "data.yaml"), "--format", "yolo", *more])
    return main(["lint", str(dest / "annotations.json"), "--images", str(common), *more])


def names_in(dest: Path, to: str) -> set[str]:
    if to == "yolo":
        return {path.name for path in (dest / "images").rglob("*") if path.is_file()}
    return {Path(image["file_name"]).name for image in json.loads((dest / "annotations.json").read_text())["images"]}


@pytest.mark.parametrize("to", ["coco", "yolo"])
@pytest.mark.parametrize("clean", CLEAN, ids=lambda clean: clean.__name__)
def test_of_a_clean_dataset_nothing_is_left_out(clean, to, tmp_path, capsys):
    folder = tmp_path / "set"
    folder.mkdir()
    options = clean(folder)
    code, dest, listed = converted(options, folder, to)
    assert (code, listed) == (0, [])
    said = capsys.readouterr().out
    assert "left out 0 of " in said
    assert f"; why: {dest}/left-out.csv" in said
    (base,) = [line for line in said.splitlines() if "data.train_images: " in line] or [""]
    assert linted(dest, to, Path(base.rpartition(": ")[2] or ".")) == 0


@pytest.mark.parametrize("to", ["coco", "yolo"])
@pytest.mark.parametrize("fault", PLANTED, ids=lambda fault: f"{fault.kind}-{fault.plant.__name__}")
def test_what_is_left_is_clean_whatever_was_planted(fault, to, tmp_path, capsys):
    folder = tmp_path / "set"
    folder.mkdir()
    options = fault.clean(folder) | fault.options
    images = {path.name for path in folder.rglob("*.png") if "masks" not in path.parts}
    fault.plant(folder)
    code, dest, listed = converted(options, folder, to)
    said = capsys.readouterr()
    if fault.kind in OF_ALL:
        assert code == 2
        assert f"({fault.kind}): it is of the whole dataset; correct it first" in said.err
        return
    assert code == 0
    kinds = {line["kind"] for line in listed}
    assert kinds == (set() if fault.kind in WRITTEN_ANEW else {fault.kind})
    left = names_in(dest, to)
    dropped = {Path(line["image"]).name for line in listed if line["image"]}
    assert not left & dropped
    assert left
    assert bool(dropped) == (fault.kind not in (*WRITTEN_ANEW, "unlisted-image"))
    if dropped:
        assert left < images | {"p2.jpg", "again.png"}
        assert f"left out {len(dropped)} of " in said.out
        assert f"{len(dropped)} {fault.kind}; why: " in said.out
    (base,) = [line for line in said.out.splitlines() if "data.train_images: " in line] or [""]
    queries = options.get("model.config", {}).get("num_queries")
    more = [] if queries is None else ["--queries", str(queries)]
    assert linted(dest, to, Path(base.rpartition(": ")[2] or "."), *more) == 0


def test_the_whole_image_goes_and_the_list_says_why(tmp_path):
    """One bad polygon of three: its image would teach the other two, and background where it lies."""
    options = coco(tmp_path)
    edited(tmp_path, lambda document: document["annotations"][4].update(segmentation=[[1, 2, 3, 4]]))
    edited(tmp_path, lambda document: document["annotations"][10].update(category_id=9))
    (tmp_path / "photos/p0.png").unlink()
    out = tmp_path / "clean.json"
    command = ["convert", options["data.train"], str(out), "--from", "coco", "--to", "coco", "--drop-faulty"]
    assert main(command) == 0
    tree = json.loads(out.read_text())
    assert [image["file_name"] for image in tree["images"]] == ["p2.png", "p4.png", "p5.png"]
    assert len(tree["annotations"]) == 9
    with (tmp_path / "clean.left-out.csv").open(newline="") as lines:
        found = {(Path(line["image"]).name, line["kind"]): line for line in csv.DictReader(lines)}
    assert {*found} == {("p0.png", "missing-image"), ("p1.png", "invalid-mask"), ("p3.png", "unknown-category")}
    assert "annotations[4]" in found["p1.png", "invalid-mask"]["where"]
    assert "at least 3 points" in found["p1.png", "invalid-mask"]["text"]
    assert main(command) == 2  # neither file is written over


def test_lint_and_convert_say_the_way_out(tmp_path, capsys):
    options = coco(tmp_path)
    edited(tmp_path, lambda document: document["annotations"][4].update(category_id=9))
    assert main(["lint", options["data.train"]]) == 1
    assert capsys.readouterr().out.endswith("--drop-faulty leaves out the images that have them\n")
    command = ["convert", options["data.train"], str(tmp_path / "out.json"), "--from", "coco", "--to", "coco"]
    assert main(command) == 2
    assert capsys.readouterr().err.endswith("lint shows all such images, and --drop-faulty leaves them out\n")
    edited(tmp_path, lambda document: document.update(annotations=[]))
    assert main(["lint", options["data.train"]]) == 1
    assert main(command) == 2  # there is nothing to leave out
    said = capsys.readouterr()
    assert "drop-faulty" not in said.out + said.err


def test_case_20_without_editing_a_line(shared_cases, tmp_path, capsys):
    folder = Path(shutil.copytree(shared_cases / "20-coco-one-short-polygon", tmp_path / "case"))
    for name in ("train", "empty_part"):
        out = tmp_path / f"{name}.json"
        command = ["convert", str(folder / f"{name}.json"), str(out), "--from", "coco", "--to", "coco", "--drop-faulty"]
        assert main(command) == 0
        assert main(["lint", str(out), "--images", str(folder)]) == 0
        assert "clean " in capsys.readouterr().out


@pytest.mark.parametrize("made", [coco, panoptic, yolo], ids=lambda made: made.__name__)
def test_nothing_left_is_2_and_nothing_is_written(made, tmp_path, capsys):
    folder = tmp_path / "set"
    folder.mkdir()
    options = made(folder)
    for path in [*folder.rglob("p*.png"), *folder.rglob("images/**/*.png")]:
        path.write_bytes(b"no image")
    code, dest, _ = converted(options, folder, "coco")
    assert (code, dest.exists()) == (2, False)
    assert "--drop-faulty: nothing to learn is left of " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("case", "form", "kind"),
    [
        ("41-yolo-labels-of-no-image", "yolo", "lost-labels"),
        ("27-duplicate-category-names", "coco", "duplicate-category-name"),
    ],
)
def test_what_ails_the_whole_dataset_is_said(case, form, kind, shared_cases, tmp_path, capsys):
    folder = Path(shutil.copytree(shared_cases / case, tmp_path / "case"))
    if kind == "lost-labels":  # a label that no image finds, and an image without one
        (folder / "train/labels/street0.txt").rename(folder / "train/labels/other.txt")
    place = {"yolo": "data.yaml", "coco": "train.json"}[form]
    command = ["convert", str(folder / place), str(tmp_path / "out"), "--from", form, "--to", "coco"]
    assert main([*command, "--drop-faulty"]) == 2
    said = capsys.readouterr()
    assert f"({kind}): it is of the whole dataset; correct it first" in said.err
    assert not (tmp_path / "out").exists()


def test_what_training_will_not_see_is_said_all_the_same(shared_cases, tmp_path, capsys):
    folder = Path(shutil.copytree(shared_cases / "01-cvat-brush-iscrowd", tmp_path / "case"))
    options = ["--from", "coco", "--to", "coco", "--drop-faulty"]
    assert main(["convert", str(folder / "half.json"), str(tmp_path / "half.json"), *options]) == 0
    assert "12 masks are crowds (iscrowd: 1)" in capsys.readouterr().err
    assert main(["convert", str(folder / "train.json"), str(tmp_path / "all.json"), *options]) == 2
    said = capsys.readouterr().err
    assert "0 of 4 images have faults; all 12 masks are crowds" in said
    assert "--crowd-as-object takes them as objects" in said
    assert main(["convert", str(folder / "train.json"), str(tmp_path / "all.json"), *options, "--crowd-as-object"]) == 0


def test_kinds_and_queries_are_as_of_lint(tmp_path, capsys):
    (tmp_path / "set").mkdir()
    options = coco(tmp_path / "set")
    code, dest, listed = converted(options, tmp_path / "set", "coco", "--queries", "2", "--ignore", "missing-image")
    assert (code, dest.exists()) == (2, False)  # each image has three objects
    (tmp_path / "set/photos/p0.png").unlink()
    code, dest, listed = converted(options, tmp_path / "set", "coco", "--ignore", "missing-image")
    assert (code, listed, len(names_in(dest, "coco"))) == (0, [], 6)
    command = ["convert", options["data.train"], f"{dest}2", "--from", "coco", "--to", "coco"]
    for more, told in ((["--ignore", "fingers"], "--ignore: fingers"), (["--queries", "0"], "--queries: must be 1")):
        assert main([*command, "--drop-faulty", *more]) == 2
        assert told in capsys.readouterr().err
    assert main([*command, "--queries", "5"]) == 2
    assert "--queries: goes with --drop-faulty" in capsys.readouterr().err


def test_a_split_leaks_nothing(tmp_path):
    """Copies that no digest tells, on both sides of a split: the one that validates goes."""
    options = coco(tmp_path, range(8))

    def copies(document):
        for number in range(8):
            photograph(number).save(tmp_path / f"photos/again{number}.jpg", quality=60)
            image = {"id": 100 + number, "file_name": f"photos/again{number}.jpg"}
            document["images"].append(document["images"][number] | image)
            own = [one for one in document["annotations"] if one["image_id"] == number + 1]
            more = {"image_id": 100 + number}
            document["annotations"] += [one | more | {"id": 1000 * (number + 1) + one["id"]} for one in own]

    edited(tmp_path, copies)
    out = tmp_path / "out"
    command = ["convert", options["data.train"], str(out), "--from", "coco", "--to", "coco", "--drop-faulty"]
    assert main([*command, "--split", "0.5", "--seed", "3"]) == 0
    with (out / "left-out.csv").open(newline="") as lines:
        assert {line["kind"] for line in csv.DictReader(lines)} == {"leaked-image"}
    places = [str(out / "train.json"), "--val", str(out / "val.json")]
    photos = str(tmp_path / "photos")
    assert main(["lint", *places, "--images", photos, "--val-images", photos]) == 0
