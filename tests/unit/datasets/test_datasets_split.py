"""The split: shares, seeds, groups that stay together, classes that keep their share."""

import json

import numpy as np
import pytest

from m2f_batch.datasets.splits.groups import group_keys
from m2f_batch.datasets.splits.split import split_images
from m2f_batch.errors import UsageError


def plain(images: int) -> list[set[int]]:
    return [set() for _ in range(images)]


@pytest.mark.parametrize("images", [2, 3, 10, 101])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.8, 0.99])
def test_the_share_of_images_is_met_and_no_side_is_empty(images, share):
    chosen = split_images(plain(images), share, seed=3)
    assert chosen.sum() == min(max(round(share * images), 1), images - 1)


def test_the_seed_decides():
    first, again, other = (split_images(plain(50), 0.8, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("stratify", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_group_is_never_on_both_sides(stratify, seed):
    rng = np.random.default_rng(seed)
    groups = rng.zipf(1.6, 300).clip(max=40).tolist()
    labels = [{*rng.integers(0, 6, 2).tolist()} for _ in groups]
    chosen = split_images(labels, 0.7, seed=seed, groups=groups, stratify=stratify)
    sides = {group: {bool(side) for side, of in zip(chosen, groups, strict=True) if of == group} for group in groups}
    assert all(len(side) == 1 for side in sides.values())
    assert 0 < chosen.sum() < len(groups)
    largest = max(groups.count(group) for group in groups)
    assert abs(chosen.sum() - 0.7 * len(groups)) <= largest


@pytest.mark.parametrize("seed", range(5))
def test_stratified_every_class_keeps_its_share(seed):
    """Within one image for classes that come alone, and a rare one is never all on one side."""
    labels = [{0}] * 100 + [{1}] * 40 + [{2}] * 10 + [{3}] * 5 + plain(20)
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = split_images([labels[i] for i in order], 0.8, seed=seed, stratify=True)
    for label, count in ((0, 100), (1, 40), (2, 10), (3, 5)):
        kept = sum(label in labels[i] for i, side in zip(order, chosen, strict=True) if side)
        assert abs(kept - 0.8 * count) <= 1
        assert 0 < kept < count
    assert abs(chosen.sum() - 0.8 * len(labels)) <= 2


@pytest.mark.parametrize("seed", range(4))
def test_stratified_beats_chance_where_images_have_many_classes(seed):
    rng = np.random.default_rng(seed)
    frequency = rng.random(30) * 0.2
    labels = [{*np.flatnonzero(rng.random(30) < frequency).tolist()} for _ in range(400)]

    def distance(chosen: np.ndarray) -> float:
        """Of the share of each class from the one wanted, on average."""
        sides = ([side for side, have in zip(chosen, labels, strict=True) if label in have] for label in range(30))
        return float(np.mean([abs(np.mean(side) - 0.8) for side in sides if side]))

    by_chance = np.mean([distance(split_images(labels, 0.8, seed=seed)) for seed in range(5)])
    assert distance(split_images(labels, 0.8, stratify=True)) < by_chance / 2


def test_two_groups_are_one_on_each_side():
    chosen = split_images(plain(10), 0.9, groups=["a"] * 9 + ["b"])
    assert chosen.tolist() == [True] * 9 + [False]


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ((plain(5), 1.0), {}, "between 0 and 1"),
        ((plain(5), 0), {}, "between 0 and 1"),
        ((plain(1), 0.5), {}, "at least two images"),
        ((plain(3), 0.5), {"groups": ["p"] * 3}, r"at least two groups \(all images are of 'p'\)"),
    ],
)
def test_what_cannot_be_split(arguments, options, text):
    with pytest.raises(UsageError, match=text):
        split_images(*arguments, **options)


# ---- groups

IMAGES = ["/data/p1/a.jpg", "/data/p1/b.jpg", "/data/p2/a.jpg", "s3://bucket/p2/c.jpg"]


def test_groups_by_folder_and_pattern():
    assert group_keys(IMAGES, "folder") == ["/data/p1", "/data/p1", "/data/p2", "s3://bucket/p2"]
    assert group_keys(IMAGES, r"pattern:/p(\d+)/") == ["1", "1", "2", "2"]


@pytest.mark.parametrize(("name", "column"), [("table.csv", "uri"), ("table.csv", "file_name"), ("table.jsonl", "uri")])
def test_groups_by_a_column(tmp_path, name, column):
    names = ["p1/a.jpg", "p1/b.jpg", "./p2/a.jpg", "c.jpg"]
    rows = [{column: image, "patient": number} for image, number in zip(names, (7, 7, 8, 9), strict=True)]
    if name.endswith("csv"):
        (tmp_path / name).write_text(f"{column},patient\n" + "".join(f"{r[column]},{r['patient']}\n" for r in rows))
    else:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert group_keys(IMAGES, "column:patient", str(tmp_path / name)) == ["7", "7", "8", "9"]


@pytest.mark.parametrize(
    ("group_by", "text"),
    [
        ("patient", "is not known; allowed: folder, pattern:REGEX"),
        ("pattern:p", "must have one group"),
        ("pattern:(", "is no regular expression"),
        (r"pattern:/p(1)/", "finds nothing in '/data/p2/a.jpg'"),
        ("column:patient", "goes with column:NAME"),
    ],
)
def test_groups_that_are_none(group_by, text):
    with pytest.raises(UsageError, match=f"--group-by: .*{text}"):
        group_keys(IMAGES, group_by)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("uri,age\nx,1\n", "needs columns 'patient' and 'uri' or 'file_name'"),
        ("uri,patient\np1/a.jpg,1\n", "does not have '/data/p1/b.jpg'"),
        ("uri,patient\na.jpg,1\nb.jpg,2\nc.jpg,3\n", "'a.jpg' may be '/data/p1/a.jpg' or '/data/p2/a.jpg'"),
        ("uri,patient\na.jpg,1\na.jpg,2\n", "'a.jpg' is in two groups, '1' and '2'"),
        ("uri,patient\na.jpg,\n", "has patient ''"),
    ],
)
def test_tables_that_do_not_say_the_group(tmp_path, table, text):
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(UsageError, match=text):
        group_keys(IMAGES, "column:patient", str(tmp_path / "t.csv"))
    with pytest.raises(UsageError, match=r"--groups: .*is no table"):
        group_keys(IMAGES, "column:patient", str(tmp_path / "t.xlsx"))
