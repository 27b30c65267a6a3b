"""Cases 05, 23 and 24: large texts in a PNG, planes of a TIFF, and a file that says size 0; each is a row at once."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import DEMO_MODEL
from support.engines import config_of, in_process


@pytest.fixture(scope="module")
def rows(shared_cases: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    folder = tmp_path_factory.mktemp("odd")
    for case in ("05-png-large-text", "23-odd-decodes", "24-proc-size-zero"):
        shutil.copytree(shared_cases / case, folder / case)
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".tif", ".jpg"))
    manifest = folder / "list.txt"
    manifest.write_text("\n".join([*map(str, files), "/proc/version"]) + "\n")
    assert in_process(config_of(manifest, folder / "run", DEMO_MODEL)) == 0
    info = json.loads((folder / "run" / "run.json").read_text())
    assert info["images"]["remaining"] == 0 and info["images"]["error"] == 2
    assert info["seconds"] < 100, "nothing was waited for"
    assert info["forward"] == {"fast": 1, "slow": 0, "why": {}}
    table = pq.read_table(folder / "run" / "annotations").to_pylist()
    return {row["uri"].removeprefix(f"{folder}/"): row for row in table}


def test_a_large_text_changes_no_label(rows: dict[str, dict[str, object]]) -> None:
    for case in ("05-png-large-text", "23-odd-decodes"):
        plain, large = rows[f"{case}/plain.png"], rows[f"{case}/ztxt-2mb.png"]
        assert plain["status"] == large["status"] == "ok"
        assert plain["segments"] == large["segments"]


@pytest.mark.parametrize("kind", ["16b_3c", "8b_4c"])
def test_planes_have_the_labels_of_the_same_image_side_by_side(rows: dict[str, dict[str, object]], kind: str) -> None:
    planes, pixels = (rows[f"23-odd-decodes/{kind}_{how}_None_strip_le.tif"] for how in ("separate", "contig"))
    assert planes["status"] == pixels["status"] == "ok"
    assert planes["segments"] == pixels["segments"] != []


def test_what_no_reader_knows_is_a_row(rows: dict[str, dict[str, object]]) -> None:
    assert rows["23-odd-decodes/4band_black.tif"]["error"] == {
        "stage": "decode",
        "type": "UnsupportedMode",
        "message": "TIFF: unknown pixel mode: 4 samples of 8 bits, photometric interpretation 1, 3 of them extra, "
        "little-endian",
    }


def test_a_file_that_says_size_0_is_a_row_at_once(rows: dict[str, dict[str, object]]) -> None:
    error = rows["/proc/version"]["error"]
    assert isinstance(error, dict)
    assert (error["stage"], error["type"]) in {("decode", "NotAnImage"), ("fetch", "Changed")}
