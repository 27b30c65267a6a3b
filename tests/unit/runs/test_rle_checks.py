"""Blocks of codes against pycocotools and the pixels: one spelling each, and where the runs lie."""

import numpy as np
import pyarrow as pa
import pytest
from pycocotools import mask as coco_mask

from m2f_batch.runs.inspect.rle_checks import canonical, overlapping


def encode(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def plain_runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Begin and end of each run of the mask, from its pixels."""
    pixels = np.concatenate([[0], mask.ravel(order="F"), [0]]).astype(int)
    changes = np.flatnonzero(np.diff(pixels))
    return [*zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True)]


def is_canonical(text: str, pixels: int) -> bool:
    """The definition, in Python's own integers: the numbers it spells, encoded by pycocotools, are it again."""
    numbers, value, place = [], 0, 0
    if not text or any(not 48 <= ord(char) < 112 for char in text):
        return False
    for char in text:
        digit = ord(char) - 48
        value |= (digit & 31) << (5 * place)
        place += 1
        if not digit & 32:
            numbers.append(value - ((1 << 5 * place) if digit & 16 else 0))
            value = place = 0
    if place:
        return False
    runs: list[int] = []
    for at, number in enumerate(numbers):
        runs.append(number + (runs[at - 2] if at > 2 else 0))
    if runs[0] < 0 or min(runs[1:], default=1) < 1 or sum(runs) != pixels:
        return False
    return coco_mask.frPyObjects({"size": [1, pixels], "counts": runs}, 1, pixels)["counts"].decode() == text


def masks(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    found = []
    for _ in range(count):
        size = tuple(rng.integers(1, 60, 2)) if rng.random() < 0.9 else (1100, 900)
        found.append(rng.random(size) < rng.choice([0.0, 0.001, 0.05, 0.5, 0.99, 1.0]))
    return found


def test_codes_of_masks_are_canonical_and_their_runs_are_the_masks() -> None:
    drawn = masks(np.random.default_rng(0), 120)
    pixels = np.array([mask.size for mask in drawn])
    good, runs = canonical(pa.array([encode(mask) for mask in drawn]), pixels)
    assert good.all() and runs.origins.tolist() == [0, *np.cumsum(pixels)[:-1]]
    for at, mask in enumerate(drawn):
        mine = slice(runs.firsts[at], runs.firsts[at + 1])
        edges = np.stack([runs.begins[mine], runs.ends[mine]], axis=1) - runs.origins[at]
        assert [(a, b) for a, b in edges.tolist() if b > a] == plain_runs(mask)


@pytest.mark.slow
def test_mutated_codes_are_judged_as_the_definition_says_each_by_itself() -> None:
    rng = np.random.default_rng(1)
    texts, pixels = [], []
    for mask in masks(rng, 500):
        text = [*encode(mask)]
        for _ in range(rng.integers(0, 3)):
            at = rng.integers(0, len(text) + 1)
            kind = rng.integers(0, 3)
            digit = chr(rng.integers(47, 113))
            text[at : at + int(kind > 0)] = [digit] * int(kind < 2)
        texts.append("".join(text))
        pixels.append(mask.size + int(rng.random() < 0.1))
    expected = [is_canonical(text, size) for text, size in zip(texts, pixels, strict=True)]
    assert 0 < sum(expected) < 400
    for counts in (pa.array(texts), pa.array(["x", *texts, "é"]).slice(1, len(texts))):
        good, runs = canonical(counts, np.array(pixels))
        assert good.tolist() == expected
        assert len(runs.firsts) == sum(expected) + 1
        assert (np.diff(np.append(runs.origins, runs.ends[-1])) == np.array(pixels)[good]).all()


@pytest.mark.parametrize(
    "text", ["", "0", "00", "PPPP", "oooooo?" * 300, "0" + "oooooo?" * 2, "Z", "o" * 50 + "0", "20"]
)
def test_single_codes_that_are_none(text: str) -> None:
    good, runs = canonical(pa.array([text, "4"]), np.array([4, 4]))
    assert good.tolist() == [False, True] and runs.firsts.tolist() == [0, 1]


def test_nothing_at_all() -> None:
    good, runs = canonical(pa.array([], pa.string()), np.zeros(0, np.int64))
    assert good.tolist() == [] and runs.firsts.tolist() == [0]
    assert overlapping(runs, np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []


def test_images_whose_masks_share_a_pixel() -> None:
    rng = np.random.default_rng(2)
    texts, owner, pixels, expected = [], [], [], []
    for image in range(0, 200, 2):  # every other image has no masks
        size = tuple(rng.integers(1, 12, 2))
        owners = rng.integers(0, 4, size)
        drawn = [owners == n for n in range(4)]
        if rng.random() < 0.5:
            drawn[0] = drawn[0].copy()
            drawn[0].flat[rng.integers(0, drawn[0].size)] = True
        if sum(mask.astype(int) for mask in drawn).max() > 1:
            expected.append(image)
        texts += [encode(mask) for mask in drawn]
        owner += [image] * 4
        pixels += [drawn[0].size] * 4
    good, runs = canonical(pa.array(texts), np.array(pixels))
    assert good.all() and 10 < len(expected) < 90
    assert overlapping(runs, np.array(owner), np.array(pixels)).tolist() == expected
