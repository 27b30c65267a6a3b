"""Case 22: what stands beside photographs in a folder turns no night red, and costs no request."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import DEMO_MODEL
from support.engines import config_of, in_process, rows_of
from support.s3_servers import S3Endpoint

from m2f_batch.flow.attempt import finish
from m2f_batch.inputs.listing import list_input
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.index import read_index
from m2f_batch.runs.inspect.verify import verify
from m2f_batch.runs.tally import Tally
from m2f_batch.storage.places import open_store

LIMIT = {"max_error_fraction": 0.05}
HIDDEN = ["@eaDir/img00.jpg/SYNOPHOTO_THUMB_M.jpg", "#recycle/deleted.jpg", ".ipynb_checkpoints/img00-checkpoint.jpg"]


def names_of(folder: Path) -> list[str]:
    return [Path(uri).name for uri in list_input(str(folder)).table["uri"].to_pylist()]


def test_the_folder_of_the_case_lists_its_photographs(shared_cases: Path) -> None:
    listing = list_input(str(shared_cases / "22-folder-with-strangers"))
    assert [Path(uri).name for uri in listing.table["uri"].to_pylist()] == [f"img{n:02}.jpg" for n in range(12)]
    assert (listing.skipped, listing.duplicates) == (len(["LICENSE", "README", "2024_$folder$", *HIDDEN]), 0)


@pytest.fixture
def photographs(shared_cases: Path, tmp_path: Path) -> Path:
    """Three photographs of the case, with room for what stands beside them."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(3):
        shutil.copy(shared_cases / "22-folder-with-strangers" / f"img{number:02}.jpg", folder)
    return folder


def test_which_names_without_extension_are_skipped(photographs: Path) -> None:
    skipped = {
        "LICENSE": b"MIT",
        "Licence": b"MIT",
        "readme": b"x",
        "in/README": b"x",
        "in_$folder$": b"",
        "marker": b"",
        "_SUCCESS": b"",
        "in/_metadata": b"PAR1",
        "in/_committed_123": b"{}",
    }
    kept = {
        "notes": b"x",
        "_dQw4w9WgXcQ": b"x",
        "LICENSE-photo": b"x",
        "in/IMG_0001": b"x",
        "README.jpg": b"",
        "$folder$.png": b"x",
    }
    (photographs / "in").mkdir()
    for name, data in (skipped | kept).items():
        (photographs / name).write_bytes(data)
    (photographs / "leads nowhere").symlink_to("gone")
    listing = list_input(str(photographs))
    assert listing.skipped == len(skipped)
    assert {uri.removeprefix(f"{photographs}/") for uri in listing.table["uri"].to_pylist()} == {
        *kept, "leads nowhere", *(f"img{number:02}.jpg" for number in range(3)),
    }  # fmt: skip


def test_strangers_are_rows_and_no_night_is_red(photographs: Path, tmp_path: Path, capsys) -> None:
    for name in ("notes", "Makefile", "index"):
        (photographs / name).write_bytes(b"all: photographs\n")
    config = config_of(photographs, tmp_path / "run", DEMO_MODEL, input=LIMIT)
    assert in_process(config) == 0
    said = capsys.readouterr().out
    assert "6 in = 3 ok + 3 error" in said
    assert "3 x decode/NotAnImage" in said
    strangers = "3 not counted by input.max_error_fraction: no image, and no extension in its name"
    assert strangers in said and "exit code 3" not in said
    assert Counter(row["status"] for row in rows_of(tmp_path / "run")) == {"ok": 3, "error": 3}
    run = open_directory(str(tmp_path / "run"))
    assert (run.read_info()["errors"], run.read_info()["strangers"]) == ({"decode/NotAnImage": 3}, 3)
    assert sum(entry.strangers for entry in read_index(run).values()) == 3
    assert verify(run, "panoptic") == []
    assert in_process(config) == 0, "and the night after, where nothing is new"
    assert strangers in capsys.readouterr().out
    from m2f_batch.cli import main

    assert main(["status", str(tmp_path / "run")]) == 0
    assert f"failed  {strangers}" in capsys.readouterr().out


def test_strangers_that_an_older_release_has_not_counted(photographs: Path, tmp_path: Path, capsys) -> None:
    (photographs / "notes").write_bytes(b"all: photographs\n")
    config = config_of(photographs, tmp_path / "run", DEMO_MODEL, input=LIMIT)
    assert in_process(config) == 0
    for file, entries in (
        ("run.json", lambda tree: [tree]),
        ("_state/index.json", lambda tree: tree["files"].values()),
    ):
        tree = json.loads((tmp_path / "run" / file).read_text())
        for entry in entries(tree):
            del entry["strangers"]
        (tmp_path / "run" / file).write_text(json.dumps(tree))
    (tmp_path / "run" / "_SUCCESS").unlink()
    capsys.readouterr()
    assert in_process(config) == 0
    assert "1 not counted by input.max_error_fraction" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["strangers"] == 1


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("error-page.jpg", b"<html>404</html>", "decode/NotAnImage"),
        ("empty.jpg", b"", "decode/Empty"),
        ("cut", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "decode/Truncated"),
    ],
)
def test_what_is_meant_for_an_image_still_counts(
    photographs: Path, tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    (photographs / name).write_bytes(data)
    assert in_process(config_of(photographs, tmp_path / "run", DEMO_MODEL, input=LIMIT)) == 3
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (info["errors"], info["strangers"]) == ({reason: 1}, 0)


def test_where_nothing_else_is_there_strangers_count(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("notes", "index"):
        (folder / name).write_bytes(b"no image")
    assert in_process(config_of(folder, tmp_path / "run", DEMO_MODEL, input=LIMIT)) == 3


def test_strangers_in_a_bucket_cost_no_request(moto_s3: S3Endpoint) -> None:
    kept = ["in/a.jpg", "in/no extension", "in/x..y/b.jpg"]
    names = ["LICENSE", "README", "2024_$folder$", "./dot.jpg", "x/../up.jpg", *HIDDEN]
    moto_s3.put(dict.fromkeys([*kept, *(f"in/{name}" for name in names)], b"x") | {"in/empty": b""})
    asked: Counter[str] = Counter()
    client = open_store(moto_s3.uri)._client  # type: ignore[attr-defined]
    client.meta.events.register("request-created.s3", lambda operation_name, **_: asked.update([operation_name]))
    listing = list_input(f"{moto_s3.uri}/in")
    assert listing.table["uri"].to_pylist() == [f"{moto_s3.uri}/{name}" for name in kept]
    assert listing.skipped == len(names) + 1
    assert asked["ListObjectsV2"] <= 3 and asked.total() - asked["ListObjectsV2"] <= 2, "looks at the folder's own name"


@pytest.mark.parametrize(
    ("tally", "judged"),
    [
        (Tally(ok=90, error=10, strangers=10), (90, 0)),
        (Tally(ok=0, error=12, strangers=10), (0, 2)),
        (Tally(ok=0, error=10, strangers=10), (0, 10)),
        (Tally(), (0, 0)),
    ],
)
def test_what_is_judged(tally: Tally, judged: tuple[int, int]) -> None:
    assert (tally.judged.ok, tally.judged.error) == judged


@pytest.mark.parametrize(
    ("mine", "listed", "is_hopeless"),
    [
        (Tally(ok=180, error=20), ["a.jpg"], True),
        (Tally(ok=199, error=20, strangers=20), ["a.jpg"], False),
        (Tally(ok=10, error=400, strangers=300), ["a.jpg"], False),  # 110 that count
        (Tally(ok=10, error=500, strangers=300), ["a.jpg"], True),
        (Tally(error=400, strangers=400), ["a", "b.jpg"], False),  # the photographs may come after them
        (Tally(error=400, strangers=400), ["a", "b"], True),
        (Tally(error=150, strangers=150), ["a", "b"], False),
    ],
)
def test_when_a_run_is_given_up(mine: Tally, listed: list[str], is_hopeless: bool) -> None:
    from types import SimpleNamespace

    import pyarrow as pa

    job = SimpleNamespace(
        config=SimpleNamespace(input=SimpleNamespace(max_error_fraction=0.05)),
        listing=SimpleNamespace(table=pa.table({"uri": listed})),
    )
    progress = SimpleNamespace(mine=mine, labelled=mine.images)
    assert finish.is_hopeless(job, progress) is is_hopeless  # type: ignore[arg-type]  # what is asked of both


def test_an_error_page_behind_a_url_is_no_stranger():
    error = {"stage": "decode", "type": "NotAnImage", "message": "<html>"}
    uris = ["/photos/CHANGES", "/photos/a.jpg", "https://host.example/images/17", "s3://bucket/CHANGES"]
    rows = pa.table(
        {
            "uri": uris,
            "status": ["error"] * 4,
            "error": [error] * 4,
            "segments": pa.array([[]] * 4, pa.list_(pa.struct([("id", pa.int32())]))),
        }
    )
    tally = Tally()
    tally.add(rows)
    assert (tally.error, tally.strangers, tally.judged.error) == (4, 2, 2)
