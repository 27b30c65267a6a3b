"""Random lives of a run: lists that change, kills at any request, workers that wake up long after their run was lost.

Everything but the images is real: plans, ``begin``, commits, joins, sweeps; on a store in memory.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.memory_store import Killed
from support.protocol import World, ids, listing_of, too_late

from m2f_batch.errors import TransientError
from m2f_batch.flow.attempt import open_output as beginning
from m2f_batch.runs import plan as plans
from m2f_batch.runs.writing.commit import staged
from m2f_batch.runs.writing.repair import sweep
from m2f_batch.storage.store import Fenced

STEPS = 20
Wake = Callable[[World, random.Random], None]


def changed(images: dict[str, str], rng: random.Random) -> dict[str, str]:
    after = dict(images)
    for uri in rng.sample([f"/in/{number:02d}.jpg" for number in range(14)], rng.randrange(4)):
        if uri in after and rng.random() < 0.5:
            del after[uri]
        else:
            after[uri] = f"v{rng.randrange(4)}"
    return after


def wake_late(world: World, rng: random.Random) -> None:
    """A worker of any attempt commits any of its units; it was stopped after it had asked whether it may."""
    fence, unit = rng.choice(world.old)
    with too_late():
        try:
            world.commit(replace(world.plain, fence=fence), unit)
        except (Fenced, TransientError):
            return


def wake_unfenced(world: World, rng: random.Random) -> None:
    """The same, and it dies before it can ask again."""
    _, unit = rng.choice(world.old)
    try:
        world.commit(world.plain, unit)
    except TransientError:
        return


class Lives:
    """One attempt after the other; ``wake`` happens between any two of its requests, and a kill at some."""

    def __init__(self, seed: int, wake: Wake | None, *, with_boxes: bool = False) -> None:
        self.rng, self.wake = random.Random(seed), wake
        file, unit = self.rng.choice([2, 4, 5]), self.rng.choice([1, 2, 3])
        is_decided_before = bool((seed + with_boxes) % 2)  # in half of the lives
        self.world = World(file, unit, with_boxes=with_boxes, is_decided_before=is_decided_before)
        self.left = 0
        self.kills = self.wakes = self.doubled = 0
        self.may_wake = True

    def before_write(self) -> None:
        self.left -= 1
        if self.left < 0:
            self.kills += 1
            raise Killed
        if self.wake is not None and self.may_wake and self.world.old and self.rng.random() < 0.15:
            self.world.store.before_write = lambda: None
            self.wake(self.world, self.rng)
            self.world.store.before_write = self.before_write
            self.wakes += 1
            self.doubled += bool(self.world.doubled())

    def attempt(self, images: dict[str, str], requests: int, *, retry: bool = False) -> bool:
        """Whether it came to its end within so many requests."""
        self.world.store.before_write = lambda: None
        held = self.world.take(images, retry)
        self.left, self.world.store.before_write = requests, self.before_write
        try:
            self.world.do(held)
        except Killed:
            return False
        finally:
            self.world.store.before_write = lambda: None
        return True

    def check_end(self, images: dict[str, str]) -> None:
        """The rows are those of the listing, each once, and nothing is left over."""
        world, listing = self.world, listing_of(images)
        assert sorted(world.rows()) == sorted(ids(listing))
        rows = [row for uri in world.plain.annotation_files() for row in world.plain.read_annotations(uri).to_pylist()]
        assert {(row["uri"], row["version"]) for row in rows} == set(images.items())
        assert world.plain.read_dirty() == []
        boxes, wanted = world.boxes(), world.wanted_boxes()
        if world.with_boxes:
            assert {file: boxes.get(file) for file in wanted} == wanted
        if self.wake is None:
            assert boxes.keys() == (wanted.keys() if world.with_boxes else set())
            assert {entry.uri.rpartition("/")[2] for entry in world.store.list("m/run/_state/sidecars/")} <= {"used"}
        assert self.wake is not None or staged(world.plain) == []  # what wakes up too late is seen by no reader


def live(seed: int, wake: Wake | None, patch: pytest.MonkeyPatch, *, with_boxes: bool) -> Lives:
    lives = Lives(seed, wake, with_boxes=with_boxes)
    patch.setattr(plans, "SMALL_FILES", 2)  # merged now and then
    rng, images = lives.rng, changed(changed({}, random.Random(seed)), random.Random(seed + 1))
    if wake is wake_unfenced:  # until ``sweep``, which finds what they left

        def last_sweep(*args: Any) -> None:
            lives.may_wake = False
            sweep(*args)

        patch.setattr(beginning, "sweep", last_sweep)
    for _ in range(STEPS):
        if rng.random() < 0.6:
            images = changed(images, rng)
        lives.may_wake = True
        requests = rng.choice([rng.randrange(10), rng.randrange(10), rng.randrange(40), 10_000])
        if lives.attempt(images, requests, retry=rng.random() < 0.2):
            lives.check_end(images)
        if wake is not wake_unfenced:
            assert lives.world.doubled() == []
    lives.may_wake = True
    assert lives.attempt(images, 10_000)
    lives.check_end(images)
    return lives


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("wake", [None, wake_late, wake_unfenced])
@pytest.mark.parametrize("with_boxes", [False, True])
def test_no_row_is_lost_or_doubled(
    seed: int, wake: Wake | None, with_boxes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = live(seed, wake, monkeypatch, with_boxes=with_boxes)
    assert lives.kills and (wake is None or lives.wakes)
    assert wake is wake_unfenced or not lives.doubled, "at no moment"
