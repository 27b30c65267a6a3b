"""``m2f-batch lint``: each planted fault is found, and nothing else; without it finetune fails clearly or warns.

Every dataset is small, clean but for one fault, and of the format in which that fault is made most often.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.planted_faults import (
    CLEAN,
    FAULTS,
    Options,
    annotation_of_no_image,
    coco,
    coco_with_val,
    edited,
    five_objects,
    id_of_zero,
    image_gone,
    image_of_another_size,
    labelme,
    mask_of_a_line,
    photograph,
    semantic,
    turned_by_exif,
    value_without_class,
)

from m2f_batch.cli import main
from m2f_batch.commands.lint import in_flags
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import load_config
from m2f_batch.datasets import findings
from m2f_batch.datasets.lint.command import SUMMARIES
from m2f_batch.datasets.lint.kinds import KINDS
from m2f_batch.errors import RunError
from m2f_batch.messages.notes import notes_to
from m2f_batch.train.command import plan_lines
from m2f_batch.train.data.samples import make_sample
from m2f_batch.train.start.job import plan_job


def config_of(options: Options, folder: Path) -> FinetuneConfig:
    needed = {"output.uri": str(folder / "tuned"), "train.steps": 1, "train.batch_size": 1, "augment.crop_size": 96}
    return load_config(FinetuneConfig, flags=needed | options)


def lint(options: Options, folder: Path, *more: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and what was found by kind."""
    config, answer = (folder.parent / f"{folder.name}-{name}.json" for name in ("config", "found"))
    tree: dict[str, Any] = {"train": {"steps": 1}, "augment": {"crop_size": 96}}
    for key, value in options.items():
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
    config.write_text(json.dumps(tree))
    code = main(["lint", "--config", str(config), "--json", str(answer), *more])
    document = json.loads(answer.read_text())
    return code, {finding["kind"]: finding for finding in document["findings"]}


@pytest.mark.parametrize("clean", CLEAN, ids=lambda clean: clean.__name__)
def test_a_clean_dataset_is_clean(clean, tmp_path, capsys):
    options = clean(tmp_path)
    assert lint(options, tmp_path) == (0, {})
    lines = plan_lines(plan_job(config_of(options, tmp_path)))
    assert not [line for line in lines if line.startswith("warning")]
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind}-{fault.plant.__name__}")
def test_a_planted_fault_is_found_by_name_and_nothing_else(fault, tmp_path, capsys):
    options = fault.clean(tmp_path) | fault.options
    fault.plant(tmp_path)
    code, found = lint(options, tmp_path)
    is_fault = not fault.is_note
    assert (code, [*found]) == (int(is_fault), [fault.kind])
    assert found[fault.kind]["is_fault"] == is_fault
    printed = capsys.readouterr().out
    first = found[fault.kind]["examples"][0]
    assert f"{'fault' if is_fault else 'note':8}{fault.kind}: {found[fault.kind]['count']}\n" in printed
    shown = in_flags([f"{first['where']}: {first['text']}", KINDS[fault.kind].effect, KINDS[fault.kind].advice])
    assert all(line in printed for line in shown), "what the JSON says of keys is printed with flags"
    assert lint(options, tmp_path, "--ignore", fault.kind)[0] == 0


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind}-{fault.plant.__name__}")
def test_the_same_fault_without_lint_is_a_clear_error_or_said_aloud(fault, tmp_path, capsys):
    options = fault.clean(tmp_path) | fault.options
    fault.plant(tmp_path)
    config = config_of(options, tmp_path)
    if fault.ends == "plan":
        flags = [f"--set={key}={value}" for key, value in options.items() if key != "data.train"]
        steps = ["--set=train.steps=1", "--set=train.batch_size=1"]
        assert main(["finetune", options["data.train"], str(tmp_path / "tuned"), *flags, *steps]) == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
    elif fault.ends == "sample":
        job = plan_job(config)
        recipe = job.recipe(tuple(range(len(job.train.categories))))
        with pytest.raises(RunError) as caught:
            for position, row in enumerate(job.train.rows()):
                make_sample(row, position, recipe)
        said = str(caught.value)
    else:
        heard: list[str] = []
        with notes_to(heard.append):
            lines = plan_lines(plan_job(config))
        said = "\n".join([*(line for line in lines if line.startswith("warning")), *heard])
    assert not (tmp_path / "tuned").exists()
    for part in fault.says:
        assert part in said


def test_faults_of_many_kinds_are_found_together(tmp_path):
    options = coco(tmp_path)
    for plant in (id_of_zero, annotation_of_no_image, image_gone, image_of_another_size, mask_of_a_line):
        plant(tmp_path)
    code, found = lint(options, tmp_path)
    wanted = {"annotation-id-zero", "unlisted-image", "missing-image", "image-size", "sliver-mask"}
    assert (code, {*found}) == (1, wanted)


def test_a_semantic_model_needs_a_query_per_class_not_per_object(tmp_path):
    options = coco(tmp_path) | {"model.config": {"num_queries": 4}}
    five_objects(tmp_path)
    assert [*lint(options, tmp_path)[1]] == ["more-objects-than-queries"]
    assert lint(options | {"model.task": "semantic"}, tmp_path) == (0, {})


def test_a_file_that_cannot_be_parsed_hides_no_other_fault(tmp_path):
    options = labelme(tmp_path)
    (tmp_path / "p0.json").write_text("{")
    turned_by_exif(tmp_path)
    assert {*lint(options, tmp_path)[1]} == {"malformed", "exif-size"}


def test_notes_leave_the_exit_code_alone(tmp_path):
    options = coco_with_val(tmp_path)

    def thin_out(document: dict[str, Any]) -> None:
        kept = [entry for entry in document["annotations"] if entry["image_id"] != 1 and entry["category_id"] != 2]
        document.update(annotations=kept, categories=[*document["categories"], {"id": 9, "name": "never"}])

    edited(tmp_path, thin_out)
    photograph(2).save(tmp_path / "a/p4.png", compress_level=0)
    photograph(2).save(tmp_path / "a/p5.jpg")
    edited(tmp_path, lambda document: document["images"][5].update(file_name="a/p5.jpg"))
    code, found = lint(options, tmp_path)
    assert code == 0
    assert {kind: entry["count"] for kind, entry in found.items()} == {
        "unlabelled-image": 1,
        "class-without-example": 1,
        "class-only-in-val": 1,
        "similar-images": 2,
    }
    assert not any(entry["is_fault"] for entry in found.values())


def test_folders_on_both_sides_of_a_split_without_groups_are_a_note(tmp_path):
    options = coco(tmp_path, range(8))

    def spread(document: dict[str, Any]) -> None:
        for image in document["images"]:
            old, number = tmp_path / image["file_name"], image["id"] % 4
            (tmp_path / f"film{number}").mkdir(exist_ok=True)
            image["file_name"] = f"film{number}/{old.name}"
            old.rename(tmp_path / image["file_name"])

    edited(tmp_path, spread)
    code, found = lint(options | {"data.split": 0.5, "data.split_seed": 1}, tmp_path)
    assert (code, [*found]) == (0, ["folder-on-both-sides"])
    assert lint(options | {"data.split": 0.5, "data.group_by": "folder"}, tmp_path) == (0, {})


def test_what_validates_only_is_read_too(tmp_path):
    options = coco_with_val(tmp_path)
    edited(tmp_path, lambda document: document["annotations"][0].update(category_id=0), "val.json")
    (tmp_path / "b/p7.png").unlink()
    code, found = lint(options, tmp_path)
    assert (code, {*found}) == (1, {"unknown-category", "missing-image"})


def test_flags_say_what_a_config_says(tmp_path, capsys):
    options = semantic(tmp_path)
    arguments = [options["data.train"], "--format", "semantic-png", "--images", options["data.train_images"]]
    arguments += ["--masks", options["data.train_masks"]]
    assert main(["lint", *arguments]) == 0
    value_without_class(tmp_path)
    assert main(["lint", *arguments]) == 1
    assert "masks/p1.png: has pixels of [9]" in capsys.readouterr().out
    assert main(["lint", *arguments, "--ignore-index", "9"]) == 0
    assert main(["lint", *arguments, "--ignore-index", "9", "--queries", "2"]) == 1
    assert "more-objects-than-queries: 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.json"], "absent.json"),
        ([], "data.train"),
        (["train.json", "--format", "voc"], "data.format"),
        (["train.json", "--ignore", "fingerprints"], "--ignore: fingerprints"),
        (["train.json", "--queries", "0"], "--queries"),
        (["train.json", "--val", "train.json", "--split", "0.5"], "data.val and data.split"),
        (["train.json", "--json", "train.json/folder.json"], "--json"),
    ],
)
def test_a_wrong_command_is_one_message_and_2(arguments, message, tmp_path, monkeypatch, capsys):
    coco(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["lint", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_every_finding_of_the_readers_has_a_kind():
    assert {*findings.KINDS, *findings.NOTES} <= {*KINDS, *SUMMARIES}


def test_real_photographs_are_clean_and_their_copies_are_not(shared_data, tmp_path):
    place = shared_data / "coco_tiny"
    options = {
        "data.train": str(place / "annotations/instances_train2017.json"),
        "data.train_images": str(place / "train2017"),
        "data.val": str(place / "annotations/instances_val2017.json"),
        "data.val_images": str(place / "val2017"),
        "augment.crop_size": 1024,
    }
    code, found = lint(options, tmp_path)
    assert code == 0
    assert {*found} <= {"sliver-mask", "box-mismatch"}  # one bottle; a tie and a person of COCO itself

    document = json.loads(Path(options["data.val"]).read_text())
    photos = tmp_path / "val"
    shutil.copytree(place / "val2017", photos)
    names = sorted(path.name for path in (place / "train2017").iterdir())[:20]
    for number, name in enumerate(names):
        image = Image.open(place / "train2017" / name).convert("RGB")
        half = image.resize((image.width // 2, image.height // 2))
        half.save(photos / f"copy-{name}", quality=40)
        document["images"].append(
            {"id": 10**9 + number, "file_name": f"copy-{name}", "height": half.height, "width": half.width}
        )
    (tmp_path / "val.json").write_text(json.dumps(document))
    options |= {"data.val": str(tmp_path / "val.json"), "data.val_images": str(photos)}
    code, found = lint(options, tmp_path)
    assert code == 1
    leaked = {Path(example["where"]).name for example in found["leaked-image"]["examples"]}
    assert leaked == {f"copy-{name}" for name in names}
