"""Images that crash their process, in a decoder and in the model, become rows, and no other row changes."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import DEMO_MODEL, LONG
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support import poison_hook, poison_workers
from support.engines import config_of, in_process
from support.engines import rows_of as rows_of_run

from m2f_batch.errors import ImageError
from m2f_batch.flow.crashes import isolated
from m2f_batch.flow.crashes.deaths import CAREFUL_AFTER, Deaths
from m2f_batch.flow.crashes.isolated import LIMITS, MAX_DEATHS, label_isolated, prepare_isolated
from m2f_batch.flow.crashes.isolated_child import Child, Died
from m2f_batch.flow.unit.actor import ActorSettings
from m2f_batch.models.source import find_model
from m2f_batch.ray_session.bytecode import kept_bytecode
from m2f_batch.records import ImageRef, error_row, ok_row, table_of
from m2f_batch.storage.places import open_store
from m2f_batch.vision.cuts.whole import WHOLE
from m2f_batch.vision.pixels.preprocess import Prepared, prepare_image
from m2f_batch.vision.segmenter import Segmenter

CRASHED = {
    "poison.png": ("decode", "Crashed", "the process died of SIGSEGV while decoding it"),
    "gray.png": ("label", "Crashed", "the process died of SIGABRT while labelling it"),
}


@pytest.fixture(autouse=True)
def quick_starts():
    """Child processes import torch again and again: compiled once, it takes half the time."""
    with kept_bytecode():
        yield


@pytest.fixture(scope="module")
def folder(scenes, tmp_path_factory):
    """The scenes, the broken file, and among them one image that crashes its decoder and one that crashes the model."""
    folder = tmp_path_factory.mktemp("poison") / "images"
    shutil.copytree(scenes, folder)
    marked = PngInfo()
    marked.add_text("comment", poison_hook.MARKER.decode())
    Image.fromarray(np.full((40, 60, 3), 7, np.uint8)).save(folder / "poison.png", pnginfo=marked)
    Image.fromarray(np.full((50, 70, 3), 128, np.uint8)).save(folder / "gray.png")
    return folder


def tried(deaths, stage, folder, one_by_one):
    """What a cluster does with a unit: the same again when its process died, until that was so twice."""
    whole = Child(partial(poison_workers.dying, folder, ImageRef("kill 11", stage)), LIMITS)
    tries = 0
    while True:
        tries += 1
        if deaths.begin("unit", stage) >= CAREFUL_AFTER:
            results = one_by_one()
            deaths.end("unit", stage)
            return results, tries
        with closing(whole), suppress(Died):
            whole.ask(None, "decode")
            deaths.end("unit", stage)


def test_a_unit_with_poison_has_all_its_rows(folder, tmp_path, monkeypatch):
    # each death costs a start with torch; that an image has three is shown by tests/integration/test_isolated.py
    monkeypatch.setattr(isolated, "MAX_DEATHS", 1)
    for name, value in poison_hook.installed(tmp_path / "hook").items():
        monkeypatch.setenv(name, value)  # for child processes; this one has no such hook
    uris = sorted(str(path) for path in folder.rglob("*") if path.suffix in (".png", ".jpg"))
    refs = [ImageRef(uri, open_store(uri).stat(uri).version) for uri in uris]
    assert len(refs) == 15
    segmenter = Segmenter.from_pretrained(str(DEMO_MODEL), task="panoptic")
    plan, deaths = segmenter.labeling.preprocess, Deaths()
    settings = ActorSettings(find_model(str(DEMO_MODEL), None), segmenter.labeling, "cpu", segmenter.threads, None)

    prepared, tries = tried(
        deaths,
        "prepare",
        tmp_path,
        partial(prepare_isolated, refs, plan=plan, cut=WHOLE, max_pixels=10**6),
    )
    assert tries == 3
    images = [image for image in prepared if isinstance(image, Prepared)]
    labelled, tries = tried(
        deaths,
        "label",
        tmp_path,
        partial(label_isolated, settings, images),
    )
    assert tries == 3
    assert deaths.in_flight() == set()
    assert poison_hook.deaths(tmp_path / "hook") == ["decode", "label"]
    rows = rows_of(refs, prepared, labelled)

    # the oracle: the same in this process, where nothing is poison
    here = [prepare_image(Path(ref.uri).read_bytes(), plan, 10**6) for ref in refs]
    expected = rows_of(refs, here, segmenter.label([image for image in here if isinstance(image, Prepared)]))
    expected = [*map(crashed, expected)]
    assert sum(bool(row["segments"]) for row in expected) >= 11
    assert table_of(rows).equals(table_of(expected)), "to the last bit of every score"
    for ours, theirs in zip(prepared, here, strict=True):
        if isinstance(ours, Prepared):
            assert (ours.views, ours.output_hw) == (theirs.views, theirs.output_hw)
            assert np.array_equal(ours.contents, theirs.contents)


@LONG  # each death costs a child process that loads the model
def test_an_image_that_dies_in_one_of_its_windows_is_one_row(tmp_path, monkeypatch):
    for name, value in poison_hook.installed(tmp_path / "hook").items():
        monkeypatch.setenv(name, value)
    size = {"shortest_edge": 64, "longest_edge": 400}
    segmenter = Segmenter.from_pretrained(
        str(DEMO_MODEL), task="semantic", size=size, window={"size": 64, "stride": 48}
    )
    labeling = segmenter.labeling
    settings = ActorSettings(find_model(str(DEMO_MODEL), None), labeling, "cpu", segmenter.threads, None)
    bright = np.random.default_rng(0).integers(0, 256, (64, 160, 3), np.uint8)
    poison = bright.copy()
    poison[:, 48:112] = 128  # all of its second window, and parts of the others
    images = [prepare_image(image, labeling.preprocess, 10**6, labeling.cut) for image in (bright, poison, bright)]
    assert [len(image.views) for image in images] == [3, 3, 3]
    before, outcome, after = label_isolated(settings, images)
    assert isinstance(outcome, ImageError)
    assert (outcome.stage, outcome.reason, outcome.size_hw) == ("label", "Crashed", (64, 160))
    assert poison_hook.deaths(tmp_path / "hook") == MAX_DEATHS * ["label"]
    assert before == after == segmenter.label([images[0]])[0], "as where nothing is poison"


def crashed(row):
    """The row as it must be: of an image that crashes its process, and else as it is."""
    name = Path(row["uri"]).name
    if name not in CRASHED:
        return row
    size = {"height": 50, "width": 70} if name == "gray.png" else {"height": None, "width": None}
    error = dict(zip(("stage", "type", "message"), CRASHED[name], strict=True))
    return {**row, **size, "status": "error", "error": error, "segments": []}


def rows_of(refs, prepared, labelled):
    """Rows as the stages make them."""
    left = iter(labelled)
    rows = []
    for ref, image in zip(refs, prepared, strict=True):
        result = next(left) if isinstance(image, Prepared) else image
        is_ok = isinstance(result, list)
        rows.append(ok_row(ref, image.output_hw, result) if is_ok else error_row(ref, result))
    return rows


@LONG
def test_a_run_with_poison_has_all_its_rows(folder, scenes, tmp_path):
    from m2f_batch.runs.directory import open_directory
    from m2f_batch.runs.inspect.verify import verify

    hook, output = tmp_path / "hook", tmp_path / "run"
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("m2f-batch"), "segment", folder, output, "--model", DEMO_MODEL),
            *("--task", "panoptic", "--set", "input.max_error_fraction=1", "--set", "compute.actors=1"),
        ],
        env={**os.environ, **poison_hook.installed(hook)},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stderr
    assert "15 in = 12 ok + 3 error" in done.stdout
    # each dies with its whole unit, until that is handled with care, and then alone
    assert Counter(poison_hook.deaths(hook)) == dict.fromkeys(("decode", "label"), CAREFUL_AFTER + MAX_DEATHS)
    assert verify(open_directory(str(output)), "panoptic") == []
    assert in_process(config_of(folder, tmp_path / "undisturbed", DEMO_MODEL)) == 0
    assert rows_of_run(output) == [*map(crashed, rows_of_run(tmp_path / "undisturbed"))]
