"""Messages of mistakes, their fields under other names, and their way to another process."""

import pickle
from pathlib import Path

import pytest

from m2f_batch.cli import main
from m2f_batch.errors import (
    ABSENT,
    ArgumentError,
    DecodeError,
    ImageError,
    Plain,
    RunError,
    UsageError,
    in_arguments,
    without_flags,
)
from m2f_batch.storage.store import NotFound

PATH = "/home/model.uri/data.train.json"


@pytest.mark.parametrize(
    "error, message",
    [
        (UsageError("is not YAML (line 3)"), "is not YAML (line 3)"),
        (UsageError("is not given", field="model.uri"), "model.uri: is not given"),
        (UsageError("has no image", field="SRC", value="a"), "SRC: 'a' has no image"),
        (UsageError("is not allowed", field="a.b", value=None), "a.b: None is not allowed"),
        (UsageError(": is no folder", field="a.b", value="c"), "a.b: 'c': is no folder"),
        (UsageError("is a file", field="DEST", value=Plain("s3://b/c")), "DEST: s3://b/c is a file"),
        (
            UsageError("is unknown", value=3, allowed="1, 2", hint="see --help"),
            "3 is unknown; allowed: 1, 2; see --help",
        ),
    ],
)
def test_a_message_names_field_value_what_is_allowed_and_what_to_do(error: UsageError, message: str):
    assert str(error) == message


def test_a_field_is_renamed_and_the_same_words_in_a_path_are_not():
    problem = f"holds no {PATH}, nor 'model.uri' of model.uri"
    error = UsageError(problem, field="model.uri", value=PATH, hint="give model.uri, or model.uris")
    renamed = error.in_words({"model.uri": "SRC", "data.train": "--ground-truth"})
    assert str(renamed) == f"SRC: {PATH!r} holds no {PATH}, nor 'model.uri' of SRC; give SRC, or model.uris"
    assert str(error.with_field("model.backbone")) == (
        f"model.backbone: {PATH!r} {problem}; give model.uri, or model.uris"
    )
    assert type(RunError("is gone", field="model.uri").with_field("SRC")) is RunError


def test_a_place_named_like_a_key_is_named_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    place = tmp_path / "data.train" / "data.train.json"
    place.parent.mkdir()
    place.write_text('{"images": []}')
    assert main(["convert", str(place), str(tmp_path / "out"), "--from", "coco", "--to", "yolo"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"m2f-batch convert: SRC: '{place}' is no COCO JSON"), said


def test_a_mistake_gets_the_field_of_who_knows_it_and_keeps_its_own_behind_that():
    bare = UsageError("is a folder", value="a", hint="give a file")
    assert (about := UsageError.about("DEST", bare)).field == "DEST" and about.value == "a"
    assert str(about) == "DEST: 'a' is a folder; give a file"
    own = UsageError("names no place", field="M2F_BATCH_ALLOW")
    assert str(UsageError.about("DEST", own, hint="unset it")) == "DEST: M2F_BATCH_ALLOW: names no place; unset it"
    assert str(UsageError.about("DEST", bare, hint="or none")) == "DEST: 'a' is a folder; give a file; or none"
    assert str(UsageError.about("DEST", OSError(5, "broken"))) == "DEST: [Errno 5] broken"
    assert str(RunError.about("input.uri", NotFound("x is not there"), hint="try later")) == (
        "input.uri: x is not there; try later"
    )


@pytest.mark.parametrize("error", [UsageError("is wrong", field="a.b"), RunError("is gone", value=[1], hint="wait")])
def test_a_mistake_is_the_same_in_another_process(error: UsageError | RunError):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
    assert (again.problem, again.field, again.value, again.hint) == (
        error.problem,
        error.field,
        error.value,
        error.hint,
    )
    assert (again.value is ABSENT) == (error.value is ABSENT)


def test_an_image_refused_by_a_setting_names_that_of_the_command():
    error = DecodeError("TooManyPixels", "4 pixels of input.max_pixels.png", size_hw=(2, 2), field="input.max_pixels")
    assert error.message == "4 pixels of input.max_pixels.png (input.max_pixels)"
    ours = pickle.loads(pickle.dumps(error.with_field("data.max_pixels")))
    assert ours.message == "4 pixels of input.max_pixels.png (data.max_pixels)"
    assert (ours.size_hw, ours.field, str(ours)[:22]) == ((2, 2), "data.max_pixels", "decode: TooManyPixels:")
    assert DecodeError("Truncated", "ends early").with_field("data.max_pixels").message == "ends early"


def test_an_image_error_is_the_same_in_another_process():
    error = ImageError("fetch", "NotFound", "is not there", index=3)
    error.message = "is masked"
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == "image 3: fetch: NotFound: is masked"


def test_a_hint_comes_behind_the_others():
    error = UsageError("is no COCO JSON", field="input.uri", value="a", hint="give another file")
    assert str(error.with_hint("or lines")) == "input.uri: 'a' is no COCO JSON; give another file; or lines"
    assert str(error.with_hint("")) == str(error)


def test_what_ends_a_call_has_its_arguments_in_place_of_keys_and_flags():
    class Lost(RunError):
        """One that is made otherwise."""

        def __init__(self, place: str) -> None:
            super().__init__(f"{place}: lost to model.uri", field="model.uri", hint="give --mask-suffix")

    names = {"model.uri": "model"}
    with pytest.raises(Lost) as lost, in_arguments(names):
        raise Lost("/a/model.uri")
    assert str(lost.value) == "model: /a/model.uri: lost to model; give mask_suffix"
    with pytest.raises(ArgumentError) as raised, in_arguments(names):
        raise UsageError("is none", field="model.uri", value="model.uri", hint="as 'm2f-batch segment' wrote it")
    assert str(raised.value) == "model: 'model.uri' is none; as 'm2f_batch.segment' wrote it"
    assert raised.value.__suppress_context__ and raised.value.value == "model.uri"


@pytest.mark.parametrize(
    "said, told",
    [
        ("convert it: m2f-batch convert-checkpoint /tmp/m DEST", None),
        ("export it first: m2f-batch export RUN file.json --format coco", None),
        ("see 'm2f-batch segment photos/ labels/' and m2f-batch status", None),
        ("m2f-batch explain run uri, or a path or URI", None),
        ("m2f-batch convert --drop-faulty leaves out the images that have them", None),
        ("give the OUTPUT of 'm2f-batch segment'", "give the OUTPUT of 'm2f_batch.segment'"),
        ("m2f-batch lint names them, --drop-faulty", "m2f_batch.lint names them, drop_faulty"),
        ("RUN: --to coco: m2f-batch verify", "run: to coco: m2f_batch.verify"),
    ],
)
def test_a_command_is_a_function_only_where_python_has_it(said: str, told: str | None):
    assert without_flags(said, {"RUN": "run", "DEST": "dest"}) == (told or said)
