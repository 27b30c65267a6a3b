"""Checks of rows in blocks: the same words wherever a block begins, and images of any number of segments."""

import numpy as np
import pyarrow as pa
import pytest
from pycocotools import mask as coco_mask
from support.hand_made import Picture

from m2f_batch.errors import ImageError
from m2f_batch.records import Row, table_of
from m2f_batch.runs.inspect import row_checks
from m2f_batch.runs.inspect.row_checks import row_problems

NAMES = {0: "cat", 1: "dog", 2: "sky"}
SIZE = (40, 30)


def row(name: str, segments: int) -> Row:
    """A row of so many disjoint segments of one or more pixels."""
    owners = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % max(segments, 1)
    return Picture(f"/p/{name}.jpg", SIZE, [(n % 3, 0.5, owners == n) for n in range(segments)]).row([*NAMES.values()])


def broken_rows() -> list[Row]:
    """Thirty rows, of which many are wrong in one way each."""
    rows = [row(f"{number:02d}", number % 4) for number in range(29)]
    rows.append(Picture("/p/29.jpg", error=ImageError("decode", "Truncated", "short")).row(()))
    rows[1]["segments"][0]["area"] += 1
    rows[3]["segments"][1]["counts"] += "0"
    rows[3]["segments"][2]["counts"] = "0"
    rows[6]["segments"] = None
    rows[7]["segments"][2]["counts"] = rows[7]["segments"][0]["counts"]
    rows[10]["segments"][1]["score"] = None
    rows[11]["segments"].append(None)
    rows[14]["height"] = None
    rows[15]["segments"][0]["bbox"] = [0.0, None, 1.0, 1.0]
    rows[18]["segments"][0]["category"] = "dog"
    rows[21].update(height=-SIZE[0], width=-SIZE[1])
    rows[22].update(status="error", error={"stage": "s", "type": "t", "message": "m"}, height=None)
    rows[29]["segments"] = [{**rows[1]["segments"][0], "area": 0}]
    return rows


EXPECTED = {
    1: ["segment 1: area or bbox are not its mask's"],
    3: ["segment 2: counts are not those of a mask of its size"],
    6: ["segments, or parts of them, are null"],
    7: ["segment 3: area or bbox are not its mask's", "panoptic segments overlap"],
    10: ["segments, or parts of them, are null"],
    11: ["segments, or parts of them, are null"],
    14: ["an image that was labeled has no size"],
    15: ["segment 1: area or bbox are not its mask's"],
    18: ["segment 1: category 0 is not 'dog'"],
    21: ["segment 1: counts are not those of a mask of its size"],
    22: ["an error row has segments", "segment 1: counts are not those of a mask of its size"],
    29: ["an error row has segments", "segment 1: counts are not those of a mask of its size"],
}


@pytest.mark.parametrize("block", [1, 300, 5000, 1 << 18])
def test_problems_are_the_same_whatever_the_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_checks, "BLOCK", block)
    expected = [f"/p/{number:02d}.jpg: {what}" for number, lines in EXPECTED.items() for what in lines]
    whole = table_of(broken_rows())
    assert [*row_problems(whole, "panoptic", NAMES)] == expected
    chunks = pa.concat_tables([whole.slice(first, 7) for first in range(0, 30, 7)])
    assert [*row_problems(chunks, "panoptic", NAMES)] == expected


@pytest.mark.parametrize("segments", [255, 256, 700])
def test_an_image_of_many_segments(segments: int) -> None:
    good = row("many", segments)
    assert [*row_problems(table_of([good]), "panoptic", NAMES)] == []
    good["segments"][-1]["area"] += 1
    (problem,) = row_problems(table_of([good]), "panoptic", NAMES)
    assert problem == f"/p/many.jpg: segment {segments}: area or bbox are not its mask's"


def test_a_segment_is_empty_only_where_it_may_be() -> None:
    void = row("void", 1)
    counts = coco_mask.encode(np.zeros((void["height"], void["width"]), np.uint8, order="F"))["counts"].decode()
    void["segments"][0] |= {"counts": counts, "area": 0, "bbox": [0.0] * 4}
    assert [*row_problems(table_of([void]), "instance", NAMES)] == ["/p/void.jpg: a segment is empty"]
    assert [*row_problems(table_of([void]), "instance", NAMES, may_be_empty=True)] == []


def test_rows_without_segments_and_no_rows() -> None:
    empty = [row("a", 0), Picture("/p/b.jpg", error=ImageError("fetch", "Denied", "no")).row(())]
    assert [*row_problems(table_of(empty), "semantic", NAMES)] == []
    assert [*row_problems(table_of([]), "instance", NAMES)] == []
