"""The reasons of an explanation, held against the definition; what an image says of itself; how two rows differ."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from support import reference
from support.hand_made import box_mask

from m2f_batch.errors import ImageError
from m2f_batch.explain.comparison import compare
from m2f_batch.explain.definition import define
from m2f_batch.explain.pictures import MOST_PIXELS, difference, overlay
from m2f_batch.records import ImageRef, Segment, error_row, ok_row, table_of
from m2f_batch.vision.decode.header import describe
from m2f_batch.vision.masks.frame import Frame
from m2f_batch.vision.masks.rle import decode_mask, encode_mask

FRAME = Frame((32, 64), (30, 50), (70, 90))
WHOLE = Frame((8, 8), (8, 8), (8, 8))
SETTINGS = {
    "instance": {"score_threshold": 0.1, "mask_threshold": 0.4, "top_k": 9, "stuff_ids": frozenset({1})},
    "panoptic": {
        "score_threshold": 0.3,
        "mask_threshold": 0.4,
        "overlap_threshold": 0.2,
        "stuff_ids": frozenset({0, 1}),
    },
    "semantic": {},
}


@pytest.mark.parametrize("task", SETTINGS)
@pytest.mark.parametrize("seed", range(3))
def test_the_reasons_lead_to_the_segments_of_the_definition(task, seed):
    generator = torch.Generator().manual_seed(seed)
    class_logits = 2.5 * torch.randn(12, 5, generator=generator)
    mask_logits = 3 * torch.randn(12, 8, 16, generator=generator)
    regions = getattr(reference, task)(class_logits, mask_logits, **FRAME._asdict(), **SETTINGS[task])
    found = define(class_logits, mask_logits, task, FRAME, SETTINGS[task])
    assert [item.category_id for item in found.segments] == [region.category_id for region in regions]
    assert len(regions) > 1
    for item, region in zip(found.segments, regions, strict=True):
        wrong = decode_mask(item.code.counts, FRAME.output) != region.mask
        assert not (wrong & ~region.doubtful).any()
        assert item.score == pytest.approx(region.score, abs=1e-5)
    assert {item.query for item in found.judged} == set(range(12))
    # kept is what is part of a segment, and nothing else
    assert all((item.reason == "kept") == bool(item.segments) for item in found.judged)
    if task != "semantic":  # where a class may win pixels without being any query's best
        assert {number for item in found.judged for number in item.segments} == set(range(1, len(regions) + 1))


def logits_of(*queries: tuple[list[float], np.ndarray, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Class and mask logits of (class logits, mask, how far its logits are from 0) at the size of the output."""
    masks = [np.where(mask, sure, -sure) for _, mask, sure in queries]
    return torch.tensor([row for row, _, _ in queries]), torch.tensor(np.stack(masks), dtype=torch.float32)


BOX, LEFT, NONE = box_mask((8, 8), 0, 0, 8, 6), box_mask((8, 8), 0, 0, 8, 4), np.zeros((8, 8), bool)


def test_panoptic_reasons():
    class_logits, mask_logits = logits_of(
        ([9.0, 0, 0], BOX, 9),  # owns 8x6
        ([0, 0, 9.0], BOX, 9),  # no object
        ([1.0, 0, 0.5], BOX, 9),  # 0.51
        ([8.0, 0, 0], box_mask((8, 8), 0, 3, 8, 5), 9),  # owns 2 of its 5 columns
        ([0, 9.0, 0], NONE, 9),
    )
    settings = {"score_threshold": 0.8, "mask_threshold": 0.5, "overlap_threshold": 0.8, "stuff_ids": frozenset()}
    found = define(class_logits, mask_logits, "panoptic", WHOLE, settings)
    assert [item.reason for item in found.judged] == ["kept", "no object", "score", "overlap", "empty"]
    assert found.judged[0].numbers == {"area": 48, "owned": 48, "visible": 48, "owned_over_area": 1.0}
    assert found.judged[3].numbers == {"area": 40, "owned": 16, "visible": 16, "owned_over_area": 0.4}
    assert found.judged[3].detail == "owns 16 / 40 = 0.4 < 0.8"
    assert (found.judged[0].canvas_area, found.judged[0].padding_area) == (48, 0)
    assert found.judged[2].class_score == pytest.approx(0.5065, abs=1e-4)


def test_members_of_one_stuff_class_share_a_segment():
    right = box_mask((8, 8), 0, 4, 8, 4)
    logits = logits_of(([9.0, 0, 0], LEFT, 9), ([8.0, 0, 0], right, 9))
    settings = {"score_threshold": 0.8, "mask_threshold": 0.5, "overlap_threshold": 0.8}
    (merged,) = define(*logits, "panoptic", WHOLE, {**settings, "stuff_ids": frozenset({0})}).segments
    assert (merged.members, merged.code.area) == ([0, 1], 64)
    assert len(define(*logits, "panoptic", WHOLE, {**settings, "stuff_ids": frozenset()}).segments) == 2


def test_instance_reasons():
    class_logits, mask_logits = logits_of(
        ([9.0, 0, 0], BOX, 9),
        ([0, 9.0, 0], BOX, 9),  # stuff
        ([0.0, 0, 2], BOX, 9),  # 0.11
        ([7.0, 0, 0], NONE, 9),
        ([2.0, 0, 0], BOX, 0.1),  # 0.79 x 0.52
        ([-9.0, -9, 9], BOX, 9),  # far behind
    )
    settings = {"score_threshold": 0.5, "mask_threshold": 0.5, "top_k": 6, "stuff_ids": frozenset({1})}
    found = define(class_logits, mask_logits, "instance", WHOLE, settings)
    assert [item.reason for item in found.judged] == ["kept", "stuff", "score", "empty", "score", "top_k"]
    assert found.judged[4].numbers["mean_probability"] == pytest.approx(1 / (1 + np.exp(-0.1)))
    assert "x mean 0.525 inside the mask" in found.judged[4].detail


def test_reasons_where_each_class_has_a_sigmoid():
    class_logits, mask_logits = logits_of(
        ([3.0, 2, -9], BOX, 9),  # two pairs
        ([-9.0, 4, -9], BOX, 9),  # stuff
        ([-9.0, -9, -1], BOX, 9),
        ([1.0, -9, -9], NONE, 9),
    )
    settings = {"score_threshold": 0.5, "mask_threshold": 0.5, "top_k": 4, "stuff_ids": frozenset({1})}
    kept = define(class_logits, mask_logits, "instance", WHOLE, {**settings, "keep_empty": True})
    assert [(item.query, item.category_id, item.reason) for item in kept.judged] == [
        (0, 0, "kept"),
        (0, 1, "stuff"),
        (1, 1, "stuff"),
        (2, 2, "top_k"),
        (3, 0, "kept"),
    ]
    assert [(item.category_id, item.code.area) for item in kept.segments] == [(0, 48), (0, 0)]
    dropped = define(class_logits, mask_logits, "instance", WHOLE, {**settings, "keep_empty": False, "top_k": 9})
    assert [item.reason for item in dropped.judged][-2:] == ["score", "empty"]


@pytest.mark.parametrize("seed", range(3))
def test_pairs_with_sigmoids_lead_to_the_segments_of_the_definition(seed):
    generator = torch.Generator().manual_seed(seed)
    class_logits, mask_logits = torch.randn(12, 5, generator=generator), torch.randn(12, 8, 8, generator=generator)
    settings = {"score_threshold": 0.6, "mask_threshold": 0.6, "top_k": 20, "stuff_ids": frozenset({0})}
    frame = Frame((32, 32), (32, 32), (24, 40))
    regions = reference.sigmoid_instance(class_logits, mask_logits, output=frame.output, **settings)
    found = define(class_logits, mask_logits, "instance", frame, {**settings, "keep_empty": True})
    assert len(regions) > 3
    assert [(item.category_id, item.score) for item in found.segments] == [(r.category_id, r.score) for r in regions]
    for item, region in zip(found.segments, regions, strict=True):
        assert not ((decode_mask(item.code.counts, frame.output) != region.mask) & ~region.doubtful).any()


def test_a_class_that_wins_no_pixel():
    class_logits, mask_logits = logits_of(([9.0, 0, 0], BOX, 9), ([0, 0.5, 0], BOX, 9), ([0, 0, 9.0], BOX, 9))
    found = define(class_logits, mask_logits, "semantic", WHOLE, {})
    assert [item.reason for item in found.judged] == ["kept", "no pixels", "no object"]
    assert [(item.category_id, item.code.area) for item in found.segments] == [(0, 64)]


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def test_what_an_image_says_of_itself():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = describe(encoded(Image.new("RGB", (4, 2)), "JPEG", exif=exif), "/p/a.png", whole=True)
    assert (turned["format"], turned["mode"], turned["stored_hw"], turned["exif_orientation"]) == (
        "JPEG",
        "RGB",
        [2, 4],
        6,
    )
    assert turned["notes"] == [
        "the name says PNG, the bytes say JPEG: the bytes count",
        "EXIF orientation 6 is applied: the image is turned or mirrored",
    ]
    inks = describe(encoded(Image.new("CMYK", (4, 2)), "JPEG"), "/p/a.jpg", whole=True)
    assert (inks["mode"], inks["notes"]) == ("CMYK", ["four inks to RGB"])
    clear = describe(encoded(Image.new("RGBA", (4, 2)), "PNG"), "s3://b/a", whole=True)
    assert clear["notes"] == ["transparency goes over white"]
    frames = [Image.new("L", (4, 2), level) for level in (0, 99, 200)]
    moving = describe(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "/p/a.gif", whole=True)
    assert moving["frames"] == 3
    text = describe(b"<svg>", "/p/a.svg", whole=False)
    assert (text["format"], text["bytes"], text["first_bytes"]) == (None, 5, "3c 73 76 67 3e")


REF = ImageRef("/p/a.jpg", "7-1")


def row(*segments: tuple[int, float, np.ndarray]) -> dict:
    codes = [encode_mask(mask) for _, _, mask in segments]
    found = [
        Segment(n, label, f"class {label}", score, code.area, code.bbox, code.counts, (8, 8))
        for n, ((label, score, _), code) in enumerate(zip(segments, codes, strict=True), 1)
    ]
    return ok_row(REF, (8, 8), found)


def stored(of: dict) -> dict:
    return table_of([of]).to_pylist()[0]


def test_equal_rows_are_equal_as_parquet_keeps_them():
    before = row((0, 0.9, BOX))
    assert stored(before)["segments"][0]["score"] != 0.9  # float32
    assert compare(stored(before), before) == {"same": True, "differs": [], "segments": None}


def test_segments_go_together_by_their_masks():
    inner, right = box_mask((8, 8), 0, 0, 8, 5), box_mask((8, 8), 0, 6, 2, 2)
    result = compare(stored(row((0, 0.9, BOX), (1, 0.8, right))), row((1, 0.7, NONE | True), (0, 0.6, inner)))
    # all of the image against 8x6 of it is an IoU of 0.75, 8x5 against 8x6 one of 0.83
    (pair,) = result["segments"]["matched"]
    assert (pair["in_run"]["id"], pair["now"]["id"], pair["flipped_pixels"]) == (1, 2, 8)
    assert pair["iou"] == pytest.approx(40 / 48) and pair["score_difference"] == pytest.approx(-0.3)
    assert [entry["id"] for entry in result["segments"]["only_in_run"]] == [2]
    assert [entry["id"] for entry in result["segments"]["only_now"]] == [1]
    assert not result["same"]


def test_other_rows_differ_in_words():
    failed = error_row(REF, ImageError("decode", "Truncated", "short"))
    result = compare(stored(row()), failed)
    assert [line.partition(":")[0] for line in result["differs"]] == ["height", "width", "status", "error"]
    assert compare(None, failed)["differs"] == ["the run has no row of this image yet"]


def test_one_flipped_pixel_of_a_huge_image_is_seen():
    size = (2000, 4500)
    assert size[0] * size[1] > MOST_PIXELS
    before, after = np.zeros(size, bool), np.zeros(size, bool)
    before[500:1500, 1000:3000] = after[500:1500, 1000:3000] = True
    after[100, 200] = True
    codes = [encode_mask(mask) for mask in (before, after)]
    old, new = (Segment(1, 0, "ball", 0.9, code.area, code.bbox, code.counts, size) for code in codes)
    gray = np.full((*size, 3), 128, np.uint8)
    picture = difference(gray, [(old, new)])
    assert picture.shape[0] * picture.shape[1] <= MOST_PIXELS
    found = (picture == (40, 200, 255)).all(-1)
    assert found.sum() == 1 and np.argwhere(found)[0].tolist() == [
        100 * picture.shape[0] // size[0],
        200 * picture.shape[1] // size[1],
    ]
    assert overlay(gray, [new], frozenset()).shape == picture.shape
    assert overlay(gray[:5, :7], [], frozenset()).shape[0] % 5 == 0  # a small one is drawn larger
