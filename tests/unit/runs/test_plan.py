"""Plans hold for any listing: each image in one file, what is done stays, what changed is done again and no more."""

import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.protocol import ids, listing_of

from m2f_batch.records import ImageRef
from m2f_batch.runs.directory import parquet_bytes
from m2f_batch.runs.plan import (
    Change,
    Plan,
    default_images_per_file,
    file_and_part,
    new_plan,
    next_plan,
    pending,
    plan_of,
    unit_name,
)

NONE = np.array([], np.int64)


def random_images(rng: random.Random) -> dict[str, str]:
    return {f"/in/{rng.randrange(60):02d}.jpg": f"v{rng.randrange(3)}" for _ in range(rng.randrange(60))}


def changed(images: dict[str, str], rng: random.Random) -> dict[str, str]:
    """Some less, some more, some of another version."""
    after = {uri: version for uri, version in images.items() if rng.random() > 0.1}
    after |= {uri: f"w{rng.randrange(9)}" for uri in images if rng.random() < 0.05}
    return after | {f"/in/{rng.randrange(90):02d}.jpg": "v0" for _ in range(rng.randrange(6))}


def by_file(plan: Plan) -> dict[str, list[int]]:
    files: dict[str, list[int]] = {}
    for image, file in zip(ids(plan.table), plan.table["file"].to_pylist(), strict=True):
        files.setdefault(file, []).append(image)
    return files


def cases(count: int) -> Iterator[tuple[Plan, pa.Table, set[str], Any, Change, random.Random]]:
    """A plan, a new listing, what is there, what is to be retried, and what becomes of it."""
    for seed in range(count):
        rng = random.Random(seed)
        images, size = random_images(rng), rng.randrange(1, 9)
        plan = new_plan(listing_of(images), "f", size, rng.randrange(1, size + 1))
        there = {file for file in by_file(plan) if rng.random() < 0.6}
        retry = np.array([i for i in ids(plan.table) if rng.random() < rng.choice([0, 0.1])], np.int64)
        listing = listing_of(changed(images, rng) if rng.random() < 0.8 else images)
        yield plan, listing, there, retry, next_plan(plan, listing, there, retry, "f", 5, 2), rng


@pytest.mark.parametrize("size", [1, 3, 32])
def test_a_new_plan_cuts_the_listing_by_uri(size: int) -> None:
    for count in (0, 1, 2, 31, 32, 33, 64):
        listing = listing_of({f"/in/{number:03d}.jpg": "v" for number in range(count)})
        plan = new_plan(listing, "f", size, 2)
        assert plan.table.drop_columns(["file"]).equals(listing)
        assert plan.table["file"].null_count == 0
        files = by_file(plan)
        assert [image for file in files.values() for image in file] == ids(listing), "slices, in order"
        assert [len(file) for file in files.values()] == [min(size, count - first) for first in range(0, count, size)]
        assert all(len(name) == 32 and int(name, 16) >= 0 for name in files)


def test_names_change_with_the_plan_and_the_fingerprint() -> None:
    listing = listing_of({f"/in/{number}.jpg": "v" for number in range(9)})
    plans = [new_plan(listing, fingerprint, 3, 2) for fingerprint in ("f", "f", "g")]
    assert len({name for plan in plans for name in by_file(plan)}) == 9
    assert len({plan.plan_id for plan in plans}) == 3


def test_a_plan_is_stored_and_read_as_it_was() -> None:
    for count in (0, 5):
        plan = new_plan(listing_of({f"/in/{number}.jpg": "v" for number in range(count)}), "f", 3, 2)
        stored = pa.parquet.read_table(pa.BufferReader(parquet_bytes(plan.manifest())))
        again = plan_of(stored)
        assert again is not None and (again.plan_id, again.images_per_unit) == (plan.plan_id, 2)
        assert again.table.equals(plan.table)
        assert next_plan(again, plan.table.drop_columns(["file"]), (), NONE, "f", 9, 9).plan is again
    assert plan_of(listing_of({"/in/a.jpg": "v"})) is None
    assert plan_of(plan.table.drop_columns(["file"]).replace_schema_metadata({b"m2f_batch.plan": b"{}"})) is None


def test_next_plan_over_random_listings() -> None:
    for old, listing, there, retry, change, _ in cases(300):
        plan, before, after = change.plan, by_file(old), by_file(change.plan)
        assert plan.table.drop_columns(["file"]).equals(listing), "exactly what is listed, each once, in order"
        assert plan.table["file"].null_count == 0
        listed, old_ids = set(ids(listing)), set(ids(old.table))
        kept = {name: [i for i in images if i in listed] for name, images in before.items()}
        for name, images in before.items():
            if name in there:
                wanted = [i for i in kept[name] if i not in set(retry.tolist())]
                stays = [] if name in change.sources else wanted
                assert after.get(name, []) == stays, "what is done keeps its file, and nothing else comes into it"
                assert (name in change.dirty) == (wanted != images)
            elif kept[name] == images:
                assert after[name] == images, "what was not begun, or half done, stays"
                assert plan.images_per_unit == old.images_per_unit
            else:
                assert name not in after and name not in change.dirty
        moved = [i for name in change.merged for i in after[name]]
        gone = {*retry.tolist()} | (set(ids(old.table)) - listed)
        assert sorted(moved) == sorted(i for name in change.sources for i in before[name] if i not in gone)
        assert set(change.sources) <= there and all(2 * len({*before[n]} - gone) < 5 for n in change.sources)
        fresh = [after[name] for name in after if name not in before and name not in change.merged]
        assert all(len(file) <= 5 for file in fresh) and sum(len(file) == 5 for file in fresh) >= len(fresh) - 1
        assert [i for file in fresh for i in file] == sorted(
            (i for file in fresh for i in file), key=ids(listing).index
        )
        uris, old_uris = set(listing["uri"].to_pylist()), set(old.table["uri"].to_pylist())
        assert (change.new, change.vanished) == (len(uris - old_uris), len(old_uris - uris))
        assert change.changed == len(listed - old_ids) - change.new
        done = {image for name in there for image in before[name]}
        assert change.retried == len({*retry.tolist()} & listed & done)
        is_same = listed == old_ids and not change.retried
        assert (plan is old) == is_same and (change.said() == "no change") == is_same
        assert is_same or plan.plan_id != old.plan_id


def test_what_is_pending_is_what_has_no_row() -> None:
    for _, _, there, _, change, rng in cases(200):
        plan, files = change.plan, by_file(change.plan)
        units = [*pending(plan, there)]
        parts: dict[str, list[int]] = {}
        for unit in units:
            file, part, of = file_and_part(unit.name)
            assert unit_name(file, part, of) == unit.name
            assert of == -(-len(files[file]) // plan.images_per_unit)
            assert 0 < len(unit.refs) <= plan.images_per_unit
            parts.setdefault(file, []).extend(ref.image_id for ref in unit.refs)
        assert parts == {file: images for file, images in files.items() if file not in there}, "in the plan's order"
        assert len({unit.name for unit in units}) == len(units)
        staged = {unit.name for unit in units if rng.random() < 0.5} | {"another-00000-of-00002"}
        assert [*pending(plan, there, staged)] == [unit for unit in units if unit.name not in staged]
        uris = dict(zip(ids(plan.table), plan.table["uri"].to_pylist(), strict=True))
        assert all(uris[ref.image_id] == ref.uri for unit in units for ref in unit.refs)


def test_other_columns_are_kept_and_refreshed() -> None:
    images = {f"/in/{number}.jpg": "v" for number in range(5)}
    plan = new_plan(listing_of(images, who=["a", "b", None, "d", "e"]), "f", 2, 1)
    assert plan.table.column_names == ["image_id", "uri", "version", "who", "file"]
    same = next_plan(plan, listing_of(images, who=["a", "b", None, "d", "e"]), (), NONE, "f", 2, 1)
    assert same.plan is plan
    other = next_plan(plan, listing_of(images, who=["a", "B", None, "d", "e"]), (), NONE, "f", 2, 1)
    assert other.plan is not plan and other.plan.plan_id == plan.plan_id and other.said() == "no change"
    assert other.plan.table["who"].to_pylist() == ["a", "B", None, "d", "e"]
    assert other.plan.table["file"].equals(plan.table["file"])
    more = next_plan(plan, listing_of(images | {"/in/x.jpg": "v"}, size=[1, 2, 3, 4, 5, 6]), (), NONE, "f", 2, 1)
    assert more.plan.table.column_names == ["image_id", "uri", "version", "size", "file"]
    assert more.plan.table["size"].to_pylist() == [1, 2, 3, 4, 5, 6]


def test_empty_cases() -> None:
    nothing, some = listing_of({}), listing_of({"/in/a.jpg": "v", "/in/b.jpg": "v"})
    empty = new_plan(nothing, "f", 32, 32)
    assert len(pending(empty, ())) == 0 and [*pending(empty, (), ["x"])] == []
    assert next_plan(empty, nothing, (), NONE, "f", 2, 1).plan is empty
    grown = next_plan(empty, some, (), NONE, "f", 2, 1)
    assert grown.new == 2 and [len(unit.refs) for unit in pending(grown.plan, ())] == [1, 1]
    (name,) = by_file(grown.plan)
    gone = next_plan(grown.plan, nothing, {name}, NONE, "f", 2, 1)
    assert (gone.vanished, gone.dirty, gone.plan.table.num_rows) == (2, (name,), 0)
    assert next_plan(grown.plan, nothing, (), NONE, "f", 2, 1).dirty == ()


def test_default_images_per_file() -> None:
    sizes = [default_images_per_file(listed) for listed in range(0, 2_000_000, 997)]
    assert sizes == sorted(sizes) and all(32 <= size <= 4096 and size % 32 == 0 for size in sizes)
    assert max(-(-listed // default_images_per_file(listed)) for listed in range(1, 1_000_000, 997)) <= 256
    assert default_images_per_file(0) == 32


def test_names_of_units() -> None:
    assert file_and_part("0f") == ("0f", 0, 1)
    assert unit_name("0f", 0, 1) == "0f"
    assert file_and_part("0f-00003-of-00128") == ("0f", 3, 128)
    assert unit_name("0f", 3, 128) == "0f-00003-of-00128"


def test_the_metadata_of_a_manifest_is_the_plans() -> None:
    plan = new_plan(listing_of({"/in/a.jpg": "v"}).replace_schema_metadata({b"theirs": b"x"}), "f", 2, 1)
    metadata = plan.manifest().schema.metadata
    assert [*metadata] == [b"m2f_batch.plan"]
    assert json.loads(metadata[b"m2f_batch.plan"]) == {"plan": plan.plan_id, "images_per_unit": 1}
    assert ImageRef("/in/a.jpg", "v").image_id in ids(plan.table)
