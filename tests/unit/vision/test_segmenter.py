"""The Segmenter takes an image in every form, and gives what a run gives for it, to the byte."""

import copy
import inspect
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DEMO_MODEL
from PIL import Image
from support.engines import config_of, in_process, rows_of
from support.s3_servers import S3Endpoint

from m2f_batch.config.loading import fields_of
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.demo.scenes import VAL_SEED, draw_scene
from m2f_batch.errors import ArgumentError, DecodeError, ImageError, RunError
from m2f_batch.records import Row, Segment
from m2f_batch.vision import segmenter as segmenter_module
from m2f_batch.vision.segmenter import Segmenter


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene in color, in gray, half transparent, and lying on its side with an orientation that turns it."""
    folder = tmp_path_factory.mktemp("images")
    scene = draw_scene(VAL_SEED).image
    Image.fromarray(scene).save(folder / "color.png")
    Image.fromarray(scene).convert("L").save(folder / "gray.png")
    alpha = np.full(scene.shape[:2], 255, np.uint8)
    alpha[:, 200:] = 40
    Image.fromarray(np.dstack([scene, alpha])).save(folder / "rgba.png")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(scene).copy()).save(folder / "turned.jpg", quality=95, exif=exif)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    return folder


@pytest.fixture(scope="module")
def rows(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """The rows of a run over these images, by file name."""
    output = tmp_path_factory.mktemp("out") / "run"
    config = config_of(images, output, DEMO_MODEL, model={"task": "instance"})
    assert in_process(config) == 0
    return {Path(row["uri"]).name: row for row in rows_of(output)}


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_pretrained(DEMO_MODEL, task="instance")


def entries(segments: list[Segment]) -> list[dict[str, Any]]:
    """As a row has them, with scores in float32."""
    return [segment.entry() | {"score": float(np.float32(segment.score))} for segment in segments]


def array_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


FORMS: dict[str, Callable[[Path], Any]] = {
    "text": str,
    "path": lambda path: path,
    "relative": lambda path: os.path.relpath(path),
    "uri": lambda path: path.as_uri(),
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "pil": Image.open,
    "array": array_of,
}


# an array has no orientation
PAIRS = [(name, form) for name in ("color.png", "gray.png", "rgba.png") for form in FORMS]
PAIRS += [("turned.jpg", form) for form in FORMS if form != "array"]


@pytest.mark.parametrize("name, form", PAIRS)
def test_one_image_has_the_segments_of_its_row(
    name: str, form: str, images: Path, rows: dict[str, Row], segmenter: Segmenter
):
    row = rows[name]
    assert (row["height"], row["width"]) == (192, 256) and row["segments"], "upright, and something was found"
    segments = segmenter(FORMS[form](images / name))
    assert entries(segments) == row["segments"]
    assert segments[0].mask().shape == (192, 256)


def test_what_is_transparent_and_gray_counts(rows: dict[str, Row]):
    """Else the test above could not see it."""
    assert len({str(rows[name]["segments"]) for name in ("color.png", "gray.png", "rgba.png")}) == 3


def test_several_images_have_a_list_each(images: Path, rows: dict[str, Row], segmenter: Segmenter):
    mixed = [images / "gray.png", array_of(images / "color.png"), str(images / "rgba.png")]
    names = ["gray.png", "color.png", "rgba.png"]
    assert [entries(found) for found in segmenter(mixed)] == [rows[name]["segments"] for name in names]
    assert [entries(found) for found in segmenter(mixed[:1])] == [rows["gray.png"]["segments"]]
    batch = np.stack([array_of(images / "color.png")] * 2)
    assert [entries(found) for found in segmenter(batch)] == [rows["color.png"]["segments"]] * 2
    assert segmenter([]) == []


def test_no_more_than_a_few_images_wait_decoded(images: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch):
    """A list of thousands of paths must fit in memory."""
    begun: list[object] = []
    ended: list[object] = []
    waiting: list[int] = []
    submit, prepare = segmenter._engine.submit, segmenter._prepared

    def prepared(image: Any) -> Any:
        begun.append(image)
        waiting.append(len(begun) - len(ended))
        return prepare(image)

    def submitted(items: Any) -> Any:
        futures = submit(items)
        for future in futures:
            future.add_done_callback(ended.append)
        return futures

    monkeypatch.setattr(segmenter, "_prepared", prepared)
    monkeypatch.setattr(segmenter._engine, "submit", submitted)
    monkeypatch.setitem(segmenter_module.AHEAD, False, 3)
    assert len(segmenter([images / "gray.png"] * 12)) == 12
    assert len(waiting) == 12 and max(waiting) <= 4


def test_rows_of_paths_are_those_of_the_run(images: Path, rows: dict[str, Row], segmenter: Segmenter):
    from m2f_batch.records import table_of

    paths = sorted(images.iterdir())
    found = segmenter.rows(paths)
    assert table_of(found).equals(table_of([rows[path.name] for path in paths]))
    assert rows["broken.jpg"]["error"] is not None and found[0] == rows["broken.jpg"]
    assert segmenter.rows(images / "broken.jpg") == rows["broken.jpg"]
    (lost,) = segmenter.rows([images / "lost.png"])
    assert (lost["uri"], lost["error"]["stage"], lost["error"]["type"]) == (
        str(images / "lost.png"),
        "fetch",
        "NotFound",
    )
    (memory,) = segmenter.rows([(images / "gray.png").read_bytes()])
    assert memory["uri"] == "memory:0" and len(memory["version"]) == 32


def test_an_object_of_a_bucket(images: Path, rows: dict[str, Row], segmenter: Segmenter, moto_s3: S3Endpoint):
    moto_s3.put({"a/gray.png": (images / "gray.png").read_bytes(), "rgba.png": (images / "rgba.png").read_bytes()})
    assert entries(segmenter(f"{moto_s3.uri}/a/gray.png")) == rows["gray.png"]["segments"]
    found = segmenter.rows([f"{moto_s3.uri}/rgba.png", f"{moto_s3.uri}/lost.png"])
    assert found[0]["uri"] == f"{moto_s3.uri}/rgba.png" and found[1]["error"]["type"] == "NotFound"


def test_a_place_that_cannot_be_is_a_row(images: Path, segmenter: Segmenter):
    """One image in, one row out: a bad URI in a list of millions is data, like a file that is not there."""
    places = [str(images / "gray.png"), "", "gs+x://a/b.png", "s3://me:secret@bucket/a.png"]
    good, *bad = segmenter.rows(places)
    assert good["status"] == "ok"
    assert [(row["status"], row["error"]["stage"], row["error"]["type"]) for row in bad] == [
        ("error", "fetch", "BadUri")
    ] * 3
    assert [row["uri"] for row in bad] == ["", "gs+x://a/b.png", "s3://bucket/a.png"]
    assert bad[1]["error"]["message"].startswith("gs+x://...: no scheme of files that can be opened")
    with pytest.raises(ImageError, match="image 1: fetch: BadUri: a URI must not be empty"):
        segmenter(places)


def test_an_image_that_fails_is_named_by_its_index(images: Path, segmenter: Segmenter):
    with pytest.raises(DecodeError, match="image 1: decode: ") as raised:
        segmenter([images / "gray.png", images / "broken.jpg"])
    assert raised.value.index == 1
    with pytest.raises(ImageError, match=r"fetch: NotFound: .*lost\.png") as raised_of_one:
        segmenter(images / "lost.png")
    assert raised_of_one.value.index == 0
    small = Segmenter.from_pretrained(str(DEMO_MODEL), task="instance", max_pixels=100)
    with pytest.raises(DecodeError, match=r"more than the cap of 100 \(max_pixels\)$"):
        small(images / "gray.png")


@pytest.mark.parametrize(
    "wrong, message",
    [
        (None, "images: is None; allowed: a path or URI, .*; or a list of them"),
        (3, "images: is of type int; allowed: "),
        ({"image": 1}, "images: is of type dict; allowed: "),
        ([b"", 3], r"images\[1\]: is of type int; allowed: a path or URI"),
        (np.zeros((4, 4)), r"images: is an array of float64, \[4, 4\]; allowed: .*; give \(image \* 255\)"),
        (np.zeros((2, 4, 5), np.uint8), r"images: is an array of uint8, \[2, 4, 5\]; allowed: "),
        (io.BytesIO(b""), "images: is of type BytesIO; allowed: a path"),
    ],
)
def test_what_is_no_image_is_the_callers_mistake(wrong: Any, message: str, segmenter: Segmenter):
    with pytest.raises(ValueError, match=message) as raised:
        segmenter(wrong)
    assert isinstance(raised.value, ArgumentError)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"task": "instances"}, "task: 'instances' is not allowed"),
        ({"task": "semantic", "top_k": 3}, "top_k: 3 .*"),
        ({"score_threshold": 2}, "score_threshold: 2 is not allowed .*less than or equal to 1"),
        ({"scor_threshold": 0.2}, "scor_threshold: is no argument; did you mean score_threshold"),
        ({"precision": "int8"}, "precision: 'int8' is not allowed"),
        ({"size": "huge"}, "size: 'huge' is not allowed"),
        ({"window": {"size": 64}}, "window: .*"),
        ({"threads": 0}, "threads: 0 is not allowed"),
        ({"batch_size": 0}, "batch_size: 0 is not allowed"),
        ({"max_pixels": 0}, "max_pixels: 0 is not allowed"),
        ({"device": "gpu"}, "device: 'gpu' is not known; allowed: auto, cpu, cuda"),
        ({"device": "mps"}, "device: 'mps' is not known; allowed: auto, cpu, cuda"),
        ({"device": "meta"}, "device: 'meta' is not known"),
        ({"device": 0}, "device: 0 is not known"),
        ({"model": 3}, "model: is of type int; allowed: a path or URI"),
        ({"stuff_ids": [77]}, "stuff_ids: .*"),
        ({"model": "no/such/model"}, "model: .*"),
        ({"model": ""}, "model: .*"),
    ],
)
def test_wrong_arguments_are_named_as_in_python(wrong: dict[str, Any], message: str):
    with pytest.raises((ArgumentError, RunError), match=f"^{message}") as raised:
        Segmenter.from_pretrained(**{"model": str(DEMO_MODEL), **wrong})
    keys = ("--", *(key for key, _ in fields_of(SegmentConfig)))
    assert not any(key in str(raised.value) for key in keys), str(raised.value)


def test_a_segmenter_says_what_it_is_made_of_and_can_be_copied(segmenter: Segmenter, images: Path) -> None:
    assert [*inspect.signature(Segmenter).parameters][:3] == ["model", "labeling", "device"]
    image = images / "color.png"
    assert entries(copy.copy(segmenter)(image)) == entries(segmenter(image))
