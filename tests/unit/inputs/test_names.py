"""Names of files as annotations have them, against the files that are there: one reading, none, or a near miss."""

import sys
import unicodedata
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from m2f_batch.inputs.listing import IMAGE_EXTENSIONS
from m2f_batch.inputs.names import resolved as names_module
from m2f_batch.inputs.names.hidden import is_hidden
from m2f_batch.inputs.names.resolved import Resolved, resolve_names
from m2f_batch.storage.places import open_store, stat_many
from m2f_batch.storage.store import StoreUnavailable

NFC, NFD = unicodedata.normalize("NFC", "müller.jpg"), unicodedata.normalize("NFD", "müller.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def make(*paths: str) -> Path:
        for path in paths:
            (tmp_path / "set" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / path).write_bytes(b"x")
        return tmp_path / "set"

    return make


def resolved(folder: Path, names: Iterable[str], **options: Any) -> Resolved:
    return resolve_names([*names], str(folder), IMAGE_EXTENSIONS, **options)


@pytest.mark.parametrize(
    ("name", "there", "ways"),
    [
        ("images\\1\\x.jpg", "images/1/x.jpg", ("backslashes",)),
        ("a%20b.jpg", "a b.jpg", ("percent-encoding",)),
        ("a b.jpg", "a%20b.jpg", ("percent-encoding",)),
        (NFC, NFD, ("another Unicode form",)),
        (NFD, NFC, ("another Unicode form",)),
        ("IMG_1.JPG", "img_1.jpg", ("case",)),
        ("Images/x.jpg", "images/x.jpg", ("case",)),
        ("x.jpeg", "x.jpg", ("another extension",)),
        ("x.JPG", "x.png", ("another extension",)),
        ("x", "x.png", ("another extension",)),
        ("/home/annotator/pics/x.jpg", "x.jpg", ("folders",)),
        ("/home/annotator/pics/x.jpg", "pics/x.jpg", ("folders",)),
        ("D:\\data\\pics\\x.jpg", "pics/x.jpg", ("folders", "backslashes")),
        ("..\\..\\x.jpg", "x.jpg", ("backslashes",)),
        ("set/x.jpg", "x.jpg", ("folders",)),
        ("x.jpg", "train/x.jpg", ("folders",)),
        ("gopher://host/x.jpg", "x.jpg", ("folders",)),
        ("s3:\\bucket\\x.jpg", "x.jpg", ("folders", "backslashes")),
        ("http:\\host\\x.jpg", "x.jpg", ("folders", "backslashes")),
    ],
)
def test_the_one_obvious_reading_is_taken_and_named(folder, name, there, ways):
    place = folder(there, "other.jpg")
    found = resolved(place, [name])
    assert found == Resolved([f"{place}/{there}"], {}, {0: ways}, {})


def test_a_name_that_is_there_is_never_read_otherwise(folder):
    names = ["a\\b.jpg", "a%20b.jpg", "IMG.JPG", NFD]
    place = folder(*names, "a/b.jpg", "a b.jpg", "img.jpg", NFC)
    assert resolved(place, names) == Resolved([f"{place}/{name}" for name in names])


def test_a_store_without_keys_hides_nothing_of_others(folder, monkeypatch):
    place = folder("x.jpg")

    def without_keys(wanted):
        if any(uri.startswith("s3:") for uri in wanted):
            raise StoreUnavailable("no keys")
        return stat_many(wanted)

    monkeypatch.setattr(names_module, "stat_many", without_keys)
    found = resolved(place, ["s3://bucket/y.jpg", "sub\\x.jpg"])
    assert found == Resolved(["s3://bucket/y.jpg", f"{place}/x.jpg"], {}, {1: ("folders", "backslashes")}, {})


def test_backslashes_may_lead_out_of_the_folder(folder):
    place = folder("images/x.jpg", "labels/x.json")
    found = resolve_names(["..\\images\\x.jpg"], str(place / "labels"), IMAGE_EXTENSIONS)
    assert found == Resolved([f"{place}/images/x.jpg"], {}, {0: ("backslashes",)})


def test_urls_are_files_of_the_folder_only_where_it_was_named(folder):
    place = folder("b/x 1.jpg")
    urls = ["https://storage.example.com/b/x%201.jpg?sig=secret"]
    assert resolved(place, urls, takes_urls=True).uris == [f"{place}/b/x 1.jpg"]
    assert resolved(place, urls).otherwise == {}


@pytest.mark.parametrize(
    ("names", "there", "near"),
    [
        (["IMG.JPG"], ["img.jpg", "Img.jpg"], "may be 'Img.jpg' or 'img.jpg'"),
        (["x.jpg"], ["train/x.jpg", "val/x.jpg"], "may be 'train/x.jpg' or 'val/x.jpg'"),
        (["a/1.jpg"], ["b/1.jpg"], "is not there, and 'b/1.jpg' is"),
        (["/m/a/1.jpg", "/m/b/1.jpg"], ["1.jpg"], "may be '1.jpg', and so may '/m/b/1.jpg'"),
        (["/m/1.jpg", "1.jpg"], ["1.jpg"], "may be '1.jpg', and so may '1.jpg'"),
    ],
)
def test_where_several_fit_or_none_the_near_miss_is_named(folder, names, there, near):
    place = folder(*there)
    found = resolved(place, names)
    assert found.otherwise == {}
    assert found.near[0] == near
    assert [line for _, line in found.said(names, str(place))] == [
        f"{len(found.near)} of {len(names)} names are of no file: {names[0]!r} {near}"
    ]


def test_the_best_of_several_is_the_one_in_the_most_of_its_folders(folder):
    place = folder("x.jpg", "train/x.jpg", "val/x.jpg")
    assert resolved(place, ["C:\\data\\train\\x.jpg"]).uris == [f"{place}/train/x.jpg"]


def test_hidden_files_and_other_kinds_are_no_readings(folder):
    place = folder(".ipynb_checkpoints/x.jpg", "@eaDir/x.jpg", "x.json")
    assert resolved(place, ["sub/x.jpg"]) == Resolved([f"{place}/sub/x.jpg"])


def test_a_file_where_the_name_says_is_meant_before_one_further_down(folder):
    place = folder(NFD, f"semantic/images/{NFC}")
    assert resolved(place, [NFC]).uris == [f"{place}/{NFD}"]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (".x.jpg", True),
        ("a/.ipynb_checkpoints/x.jpg", True),
        ("2024/@eaDir/x.jpg/SYNOPHOTO_THUMB_M.jpg", True),
        ("#recycle/x.jpg", True),
        ("__MACOSX/set/._x.jpg", True),
        ("$RECYCLE.BIN/x.jpg", True),
        ("lost+found/x.jpg", True),
        ("a.b/x..jpg", False),
        ("recycle/eaDir/x.jpg", False),
    ],
)
def test_one_rule_for_hidden_names(path, wanted):
    assert is_hidden(path) is wanted


def test_a_mask_is_no_reading_of_its_image(folder):
    place = folder("masks/x.png")
    assert resolved(place, ["x.jpg"]).otherwise == {}
    assert resolved(place, ["x.png"]).uris == [f"{place}/masks/x.png"]
    assert resolved(place, ["x.png"], but=f"{place}/masks") == Resolved([f"{place}/x.png"])
    assert resolved(place / "masks", ["x.jpg"], but=f"{place}/masks") == Resolved([f"{place}/masks/x.jpg"])


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("train2017/1.jpg", "val2017/1.jpg"),
        ("D:\\data\\train\\1.jpg", "val/1.jpg"),
        ("test/1.jpg", "valid/images/1.jpg"),
    ],
)
def test_an_image_of_another_side_is_not_meant(tmp_path, folder, name, there):
    top = folder(there)
    found = resolved((top / there).parent, [name])
    assert found.otherwise == {}
    assert found.near == {0: "is not there, and '1.jpg' is"}


def steps_of(call: Callable[[], object]) -> int:
    """How many instructions of the module a call takes: a measure of time on which no other process has a say."""
    steps = 0

    def count(frame: FrameType, event: str, _: object) -> Any:
        nonlocal steps
        if frame.f_code.co_filename != names_module.__file__:
            return None
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        call()
    finally:
        sys.settrace(before)
    return steps


def test_thousands_of_files_of_one_name_are_not_all_compared(folder):
    steps = {}
    for many in (40, 160):
        place = folder(*(f"case_{number}/image.png" for number in range(many)))
        names = [f"/home/annotator/set/case_{number}/image.png" for number in range(many)]
        steps[many] = steps_of(partial(resolved, place, names))
        assert resolved(place, names).uris == [f"{place}/case_{number}/image.png" for number in range(many)]
    assert 0 < steps[160] < 4.4 * steps[40], "four times as many take four times as long, not sixteen"


def test_a_listing_that_is_too_long_is_given_up(folder, monkeypatch):
    place = folder(*(f"{number}/y.jpg" for number in range(9)), "z/x.jpg")
    monkeypatch.setattr(names_module, "_AT_LEAST", 5)
    monkeypatch.setattr(names_module, "_PER_NAME", 1)
    assert resolved(place, ["x.jpg"]) == Resolved([f"{place}/x.jpg"])


def test_on_s3_right_names_cost_one_listing_and_no_look_at_each(moto_s3):
    bucket = moto_s3.uri
    for number in range(30):
        open_store(bucket).write(f"{bucket}/set/{number:02d}.jpg", b"x")
    calls: list[str] = []
    client = open_store(bucket)._client  # type: ignore[attr-defined]
    client.meta.events.register("before-call.s3", lambda model, **_: calls.append(model.name))
    names = [f"{number:02d}.jpg" for number in range(30)]
    assert not resolve_names(names, f"{bucket}/set", IMAGE_EXTENSIONS).otherwise
    assert calls == ["ListObjectsV2"]
    calls.clear()
    found = resolve_names(["train\\00.jpg", *names[1:]], f"{bucket}/set", IMAGE_EXTENSIONS)
    assert found.uris[0] == f"{bucket}/set/00.jpg"
    assert set(calls) <= {"ListObjectsV2", "HeadObject", "GetObject"}
    assert calls.count("ListObjectsV2") == 1
