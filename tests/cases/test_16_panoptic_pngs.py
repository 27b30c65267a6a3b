"""Case 16: panoptic PNGs with a palette, with transparency, in gray, or named as their images."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from m2f_batch.cli import main
from m2f_batch.datasets.reading import read_dataset
from m2f_batch.vision.masks.rle import decode_mask


@pytest.mark.parametrize("kind", ["palette", "rgba", "jpgname"])
def test_colors_are_ids_however_they_are_stored(shared_cases, capsys, kind):
    folder = shared_cases / "16-panoptic-png-kinds" / kind
    assert main(["lint", str(folder / "train.json"), "--format", "coco-panoptic"]) == 0
    said = capsys.readouterr().out
    assert ("4 of 4 annotations name no PNG, and mean the one with its stem: '1.jpg' is '1.png'" in said) == (
        kind == "jpgname"
    )
    document = json.loads((folder / "train.json").read_text())
    dataset = read_dataset("coco-panoptic", str(folder / "train.json"))
    assert dataset.table.num_rows == 4
    for row, entry in zip(dataset.rows(), document["annotations"], strict=True):
        png = folder / "train" / f"{entry['image_id']}.png"
        colors = np.asarray(Image.open(png).convert("RGB")).astype(np.int64)
        ids = colors @ (1, 256, 65536)
        assert {info["id"] for info in entry["segments_info"]} == {*np.unique(ids).tolist()} - {0}
        for segment, info in zip(row["segments"], entry["segments_info"], strict=True):
            assert dataset.categories[segment["category"]].id == info["category_id"]
            mask = decode_mask(segment["counts"], (row["height"], row["width"]))
            np.testing.assert_array_equal(mask, ids == info["id"])


@pytest.mark.parametrize(("kind", "mode"), [("gray16", "I;16 with 16 bits"), ("la", "L with 8 bits")])
def test_gray_ones_are_findings_with_their_mode(shared_cases, capsys, kind, mode):
    folder = shared_cases / "16-panoptic-png-kinds" / kind
    assert main(["lint", str(folder / "train.json"), "--format", "coco-panoptic"]) == 1
    said = capsys.readouterr().out
    assert "fault   unreadable-mask: 4" in said
    text = f"a PNG of mode {mode}; a panoptic PNG is RGB of 8 bits, with id = R + 256 G + 65536 B"
    assert f"{folder}/train/1.png: decode: UnsupportedMode: {text}" in said


def test_colors_of_16_bits_are_no_ids(shared_cases, tmp_path, capsys):
    """Pillow gives their upper bytes, without a word."""
    import struct
    import zlib

    case = shutil.copytree(shared_cases / "16-panoptic-png-kinds" / "rgba", tmp_path / "case")
    ids = np.zeros((72, 96, 3), ">u2")
    ids[8:28, 8:32] = 1, 0, 0
    raw = b"".join(b"\0" + row.tobytes() for row in ids)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 96, 72, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data)) for tag, data in parts
    ]
    (case / "train" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert main(["lint", str(case / "train.json"), "--format", "coco-panoptic"]) == 1
    assert "train/1.png: decode: UnsupportedMode: a PNG of mode RGB with 16 bits" in capsys.readouterr().out


def test_ids_of_segments_through_pandas(shared_cases, tmp_path):
    case = shutil.copytree(shared_cases / "16-panoptic-png-kinds" / "rgba", tmp_path / "case")
    wanted = [*read_dataset("coco-panoptic", str(case / "train.json")).rows()]
    document = json.loads((case / "train.json").read_text())
    for entry in document["annotations"]:
        entry["image_id"] = float(entry["image_id"])
        for info in entry["segments_info"]:
            info |= {"id": float(info["id"]), "category_id": str(info["category_id"]), "iscrowd": float("nan")}
    document["annotations"] = {str(number): entry for number, entry in enumerate(document["annotations"])}
    (case / "train.json").write_text(json.dumps(document))
    assert [*read_dataset("coco-panoptic", str(case / "train.json")).rows()] == wanted


def test_segments_that_are_an_object_are_its_values(shared_cases, tmp_path, capsys):
    case = shutil.copytree(shared_cases / "16-panoptic-png-kinds" / "palette", tmp_path / "case")
    document = json.loads((case / "train.json").read_text())
    wanted = [[*row["segments"]] for row in read_dataset("coco-panoptic", str(case / "train.json")).rows()]
    for entry in document["annotations"]:
        entry["segments_info"] = {str(info.pop("id")): info for info in entry["segments_info"]}
    (case / "train.json").write_text(json.dumps(document))
    assert [[*row["segments"]] for row in read_dataset("coco-panoptic", str(case / "train.json")).rows()] == wanted
    assert any(wanted)
