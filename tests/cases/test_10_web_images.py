"""Case 10 h, and COCO files of the web: images behind URLs are read where storage.allow names the host, never else."""

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import DEMO_MODEL
from support.engines import config_of, in_process, rows_of
from support.web_server import Site, serving

from m2f_batch.cli import main
from m2f_batch.inputs.listing import list_input
from m2f_batch.records import ImageRef
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.inspect.verify import verify
from m2f_batch.storage import allow


@pytest.fixture
def site(shared_cases: Path) -> Iterator[Site]:
    """Three photographs on the web, an error page, and one that nobody may have."""
    with serving() as site:
        for number in range(3):
            photo = shared_cases / "22-folder-with-strangers" / f"img{number:02}.jpg"
            site.put(f"/in/{number}.jpg?size=full", photo.read_bytes(), headers={"ETag": f'"v{number}"'})
        site.put("/in/page.jpg", b"<html>nothing here</html>")
        site.put("/in/denied.jpg", b"", status=403)
        yield site


def test_the_manifest_of_the_case_names_what_to_set(shared_cases: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(shared_cases / "10-manifest-kinds", tmp_path / "case")
    place = tmp_path / "case" / "http.txt"
    assert main(["segment", str(place), str(tmp_path / "run"), "--model", str(DEMO_MODEL)]) == 2
    add = "add https://example.com/ to it, and the other places of the job"
    assert capsys.readouterr().err == (
        f"m2f-batch segment: input.uri: '{place}': row 2: 'https://example.com/photos/a.jpg': the web is read only "
        f"where storage.allow (or M2F_BATCH_ALLOW) names the host; {add}\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_coco_file_names_what_to_set(tmp_path: Path, capsys) -> None:
    images = [{"id": 1, "file_name": "http://images.example/a.jpg?key=SECRET", "height": 1, "width": 1}]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    assert main(["segment", str(tmp_path / "coco.json"), str(tmp_path / "run"), "--model", str(DEMO_MODEL)]) == 2
    said = capsys.readouterr().err
    assert "coco.json': images[0]: 'http://images.example/a.jpg': the web is read only where storage.allow" in said
    assert "SECRET" not in said


def test_a_run_over_images_of_the_web(site: Site, shared_cases: Path, tmp_path: Path) -> None:
    urls = [f"{site.url}/in/{number}.jpg?size=full" for number in range(3)]
    others = [f"{site.url}/in/{name}.jpg" for name in ("page", "denied", "gone")]
    outside = ["http://127.0.0.1:1/x.jpg", f"{site.url}/secret.jpg"]
    (tmp_path / "m.csv").write_text("uri,shelf\n" + "".join(f"{url},007\n" for url in [*urls, *others, *outside]))
    places = [f"{site.url}/in/", str(tmp_path), str(DEMO_MODEL)]
    config = config_of(tmp_path / "m.csv", tmp_path / "run", DEMO_MODEL, storage={"allow": places})
    with allow.confine(places, {}):
        assert in_process(config) == 0
        rows = {row["uri"]: row for row in rows_of(tmp_path / "run")}
        assert verify(open_directory(str(tmp_path / "run")), "panoptic") == []
        before = len(site.asked)
        assert in_process(config) == 0, "a night in which nothing is new asks for versions only"
    assert {method for method, _ in site.asked[before:]} <= {"HEAD", "GET"}
    assert not [path for method, path in site.asked[before:] if method == "GET" and "size=full" in path]
    assert "/secret.jpg" not in {path for _, path in site.asked}
    for number, url in enumerate(urls):
        local = shared_cases / "22-folder-with-strangers" / f"img{number:02}.jpg"
        assert (rows[url]["version"], rows[url]["status"]) == (f"v{number}", "ok")
        assert rows[url]["image_id"] == ImageRef(url, f"v{number}").image_id
        assert rows[url]["segments"] == segments_of(local, tmp_path / f"local{number}")
    found = {url.rpartition("/")[2]: rows[url]["error"] for url in [*others, *outside]}
    assert {name: f"{error['stage']}/{error['type']}" for name, error in found.items()} == {
        "page.jpg": "decode/NotAnImage",
        "denied.jpg": "fetch/AccessDenied",
        "gone.jpg": "fetch/NotFound",
        "x.jpg": "fetch/NotAllowed",
        "secret.jpg": "fetch/NotAllowed",
    }


def segments_of(photo: Path, output: Path) -> list[dict]:
    assert in_process(config_of(photo, output, DEMO_MODEL)) == 0
    return rows_of(output)[0]["segments"]


def test_a_coco_file_of_urls(site: Site, tmp_path: Path) -> None:
    images = [
        {"id": 7, "file_name": f"{site.url}/in/0.jpg?size=full"},
        {"id": 8, "file_name": f"{site.url}/in/1.jpg?size=full"},
    ]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images}))
    with allow.confine([f"{site.url}/in/", str(tmp_path)], {}):
        table = list_input(str(tmp_path / "coco.json")).table
    assert table.select(["uri", "version", "coco_id"]).to_pylist() == [
        {"uri": image["file_name"], "version": f"v{number}", "coco_id": image["id"]}
        for number, image in enumerate(images)
    ]


@pytest.mark.parametrize("places", [["https://host.example/"], None])
def test_output_on_the_web(tmp_path: Path, capsys, places: list[str] | None) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    flags = ["--set", f"storage.allow={json.dumps([*places, str(tmp_path), str(DEMO_MODEL)])}"] if places else []
    target = "https://host.example/run"
    assert main(["segment", str(tmp_path / "a.jpg"), target, "--model", str(DEMO_MODEL), *flags]) == 2
    words = "nothing can be written to the web; give a folder or a bucket"
    assert capsys.readouterr().err == f"m2f-batch segment: output.uri: {target!r}: {words}\n"


@pytest.mark.parametrize("command", [["status"], ["verify"], ["explain", "a.jpg"], ["export", "x.json"]])
def test_a_run_on_the_web(capsys, command: list[str]) -> None:
    name, *more = command
    assert main([name, "https://host.example/run?sig=1", *more]) == 2
    words = "RUN: 'https://host.example/run?...': nothing can be written to the web; give a folder or a bucket"
    assert capsys.readouterr().err == f"m2f-batch {name}: {words}\n"


def test_an_explanation_on_the_web(tmp_path: Path, capsys, shared_cases: Path) -> None:
    photo = shared_cases / "22-folder-with-strangers" / "img00.jpg"
    assert in_process(config_of(photo, tmp_path / "run", DEMO_MODEL)) == 0
    capsys.readouterr()
    assert main(["explain", str(tmp_path / "run"), str(photo), "https://host.example/x"]) == 2
    words = "DEST: 'https://host.example/x': nothing can be written to the web; give a folder or a bucket"
    assert capsys.readouterr().err == f"m2f-batch explain: {words}\n"


def test_a_dataset_on_the_web(capsys) -> None:
    assert main(["convert", "none.json", "https://host.example/x?sig=1", "--from", "coco", "--to", "yolo"]) == 2
    words = "DEST: 'https://host.example/x?...': nothing can be written to the web; give a folder or a bucket"
    assert capsys.readouterr().err == f"m2f-batch convert: {words}\n"


def test_a_model_on_the_web(tmp_path: Path, capsys) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    model = "https://huggingface.co/facebook/mask2former-swin-tiny-coco-instance"
    assert main(["segment", str(tmp_path / "a.jpg"), str(tmp_path / "run"), "--model", model]) == 2
    assert (
        f"model.uri: '{model}': models are not read from the web; give a hub id (owner/name)" in capsys.readouterr().err
    )


LISTED = {"categories": [{"id": 1, "name": "ball"}], "annotations": []}


def lvis(site: Site) -> dict:
    """As LVIS has it: no file_name, and a URL; sizes are those of the files."""
    shape = {"category_id": 1, "iscrowd": 0, "area": 400, "bbox": [8, 8, 20, 20]}
    shape["segmentation"] = [[8, 8, 28, 8, 28, 28, 8, 28]]
    images = [{"id": number, "coco_url": f"{site.url}/in/{number}.jpg?size=full"} for number in range(3)]
    return LISTED | {"images": images, "annotations": [{"id": n + 1, "image_id": n, **shape} for n in range(3)]}


def test_a_dataset_of_urls(site: Site, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lvis.json").write_text(json.dumps(lvis(site)))
    command = ["lint", str(tmp_path / "lvis.json"), "--format", "coco"]
    assert main(command) == 1
    assert "missing-image" in capsys.readouterr().out
    assert site.asked == []
    monkeypatch.setenv("M2F_BATCH_ALLOW", f"{site.url}/in/ {tmp_path}")
    main(command)
    said = capsys.readouterr().out
    assert "fault" not in said.replace("0 faults", "") and "3 images" in said
    assert "/in/2.jpg?size=full" in {path for _, path in site.asked}


def test_a_coco_input_as_programs_spell_it(site: Site, tmp_path: Path) -> None:
    (tmp_path / "lvis.json").write_text(json.dumps(lvis(site)))
    with allow.confine([f"{site.url}/", str(tmp_path)], {}):
        assert list_input(str(tmp_path / "lvis.json")).table["coco_id"].to_pylist() == [0, 1, 2]
    images = [{"id": 7.0, "file_name": "a.jpg"}, {"id": "8", "file_name": "b.jpg"}]
    for listed in (images, {"0": images[0], "1": images[1]}):
        (tmp_path / "coco.json").write_text(json.dumps({"images": listed}))
        assert list_input(str(tmp_path / "coco.json")).table["coco_id"].to_pylist() == [7, 8]


def test_a_packed_manifest_behind_a_url_with_a_query(site: Site, tmp_path: Path) -> None:
    site.put("/lists/a.csv.gz?version=1.2", gzip.compress(b"uri\n../in/0.jpg?size=full\n"))
    with allow.confine([f"{site.url}/"], {}):
        listing = list_input(f"{site.url}/lists/a.csv.gz?version=1.2")
    assert listing.table["uri"].to_pylist() == [f"{site.url}/in/0.jpg?size=full"]
