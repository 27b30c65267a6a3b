"""Case 31: ``~`` at the beginning of a place is a home, wherever one is configured; other odd configs are refused."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import DEMO_MODEL
from PIL import Image
from support.engines import in_process

from m2f_batch.cli import main
from m2f_batch.config.loading import load_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import UsageError
from m2f_batch.inputs.listing import list_input
from m2f_batch.models.source import find_model
from m2f_batch.storage import allow, uris
from m2f_batch.submit.portable import check_portable


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a model and two photographs; the working directory is another one, where no ``~`` may appear."""
    home, here = tmp_path / "home", tmp_path / "here"
    (home / "photos").mkdir(parents=True)
    here.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 24)).save(home / "photos" / name)
    shutil.copytree(DEMO_MODEL, home / "model")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    return home


def test_a_place_is_spelled_without_it(home: Path) -> None:
    for place in ("~", "~/", "~/photos/../photos"):
        assert uris.normalize(place).startswith(str(home))
    assert uris.normalize("~no-such-user-here/x") == f"{Path.cwd()}/~no-such-user-here/x"
    assert uris.normalize("./~/x") == f"{Path.cwd()}/~/x", "a folder of that name"
    assert uris.join("/lists", "~/a.jpg") == "/lists/~/a.jpg", "an entry of a manifest is data"
    assert [uri.removeprefix(f"{home}/") for uri in list_input("~/photos").table["uri"].to_pylist()] == [
        "photos/a.png",
        "photos/b.png",
    ]
    assert list_input("~/photos/a*.png").table.num_rows == 1
    assert find_model("~/model").uri == f"{home}/model"
    with allow.confine(["~/photos"], {}):
        assert allow.is_allowed(f"{home}/photos/a.png") and not allow.is_allowed(f"{home}/model")


def test_a_run(home: Path) -> None:
    file = home / "job.yaml"
    file.write_text("input: {uri: ~/photos, max_error_fraction: 1}\nmodel: {uri: ~/model}\noutput: {uri: ~/labels}\n")
    config = load_config(SegmentConfig, file="~/job.yaml", flags={"model.task": "panoptic"})
    assert in_process(config) == 0
    assert json.loads((home / "labels" / "run.json").read_text())["config"]["output"]["uri"] == f"{home}/labels"
    assert main(["verify", "~/labels"]) == 0
    assert main(["export", "~/labels", "~/out/coco.json", "--format", "coco"]) == 0
    assert (home / "out" / "coco.json").exists()
    assert [*Path.cwd().iterdir()] == []


@pytest.mark.parametrize("target", ["coco", "yolo"])
def test_convert_and_lint(home: Path, target: str) -> None:
    shape = {"category_id": 1, "iscrowd": 0, "area": 64, "bbox": [8, 8, 8, 8]}
    shape["segmentation"] = [[8, 8, 16, 8, 16, 16, 8, 16]]
    sizes = [{"id": n, "file_name": name, "height": 24, "width": 32} for n, name in ((1, "a.png"), (2, "b.png"))]
    document = {"images": sizes, "categories": [{"id": 1, "name": "ball"}]}
    document["annotations"] = [{"id": n, "image_id": n, **shape} for n in (1, 2)]
    given = "~/photos/coco.json"
    (home / "photos" / "coco.json").write_text(json.dumps(document))
    main(["lint", given, "--format", "coco", "--json", "~/found.json"])
    assert json.loads((home / "found.json").read_text())
    assert main(["convert", given, "~/out", "--from", "coco", "--to", target]) == 0
    assert any((home / "out").iterdir())
    assert [*Path.cwd().iterdir()] == []


def test_a_home_means_nothing_on_a_cluster(home: Path) -> None:
    with pytest.raises(UsageError, match=r"^input.uri: '~/photos' is a path below your home, which no node"):
        check_portable({"input.uri": "~/photos"})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tilde.yaml", "input.uri: '~/photos': there is no such file, directory or prefix; wanted"),
        (
            "envvar.yaml",
            "input.uri: '$HOME/photos': there is no such file, directory or prefix ('~' is put in, '$NAME' is",
        ),
        ("s3a.yaml", "input.uri: s3a://...: no scheme of files that can be opened; write s3://"),
        ("win.yaml", r"input.uri: 'C:\\photos': there is no such file, directory or prefix; wanted"),
        ("bomcrlf.yaml", "input.uri: 'none_here': there is no such file, directory or prefix; wanted"),
        ("dupkeys.yaml", "input: given twice"),
    ],
)
def test_the_configs_of_the_case(
    shared_cases: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.chdir(tmp_path)
    file = shared_cases / "31-config-files" / name
    places = ["--model", str(DEMO_MODEL), "--set", f"output.uri={tmp_path}/out"]
    assert main(["segment", "--config", str(file), *places]) == 2
    assert words in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []
