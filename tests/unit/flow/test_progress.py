"""Busy shares, the advice that follows from them, and what a run says while it goes on."""

import pytest

from m2f_batch.flow.watch.busy import Busy, Slots, advice, shares_line
from m2f_batch.flow.watch.progress import Progress
from m2f_batch.ray_session.slots import SlotCounts


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def unit(seconds: dict[str, float] | None, replica: str = "a:1", **counts: int) -> dict:
    done = {"transient": None, "ok": 2, "error": 0, "segments": 5, "reasons": [], **counts}
    return {**done, "seconds": None if seconds is None else list(seconds.items()), "replica": replica}


def test_shares_are_seconds_over_the_seconds_of_all_places():
    clock = Clock()
    busy = Busy(Slots(preparing=2), clock)
    assert (busy.shares, busy.lines(), busy.report()) == ({}, [], {})
    # the first unit took 10 s, so that the window begins at 90
    clock.now = 100.0
    busy.add(unit({"fetch": 1.0, "decode": 3.0, "forward": 5.0, "postprocess": 0.5, "write": 0.5, "wait": 40.0}))
    clock.now = 110.0
    busy.add(unit({"fetch": 1.0, "decode": 5.0, "forward": 13.0, "postprocess": 1.5, "write": 0.5, "wait": 0.0}))
    # 20 s: two tasks had 40 place seconds, the one replica 20
    assert busy.shares == pytest.approx(
        {"fetch": 0.05, "decode": 0.2, "forward": 0.9, "postprocess": 0.1, "write": 0.05, "wait": 2.0}
    )
    assert busy.report()["decode"] == {"seconds": 8.0, "busy": 0.2}
    assert busy.lines()[0] == "busy  fetch 5 %  decode 20 %  forward 90 %  postprocess 10 %  write 5 %"
    assert "the model is the bottleneck" in busy.lines()[1]
    assert len(busy.lines()) == 2


def test_places_are_the_replicas_that_have_delivered():
    clock = Clock()
    busy = Busy(Slots(), clock)
    for replica in ("a:1", "b:1", "a:1", "b:1"):
        clock.now += 5.0
        busy.add(unit({"forward": 9.0}, replica))
    # a from -4 to 20 s, b, whose first unit took 9 s, from 1 to 20 s: 36 of 24 + 19 place seconds
    assert busy.shares == pytest.approx({"forward": 36 / 43})


def test_a_replica_that_came_for_a_dead_one_is_no_place_more():
    clock = Clock()
    busy = Busy(Slots(replicas=2), clock)
    for replica in ("a:1", "b:1", "a:1", "c:1", "d:1", "d:1"):  # b died, then a
        clock.now += 5.0
        busy.add(unit({"forward": 9.0}, replica))
    # one from -4 to 30 s, another one from 1 to 30 s: 54 of 34 + 29 place seconds
    assert busy.replicas == 2 and busy.shares == pytest.approx({"forward": 54 / 63})


def test_places_are_counted_as_nodes_come_and_go():
    clock, there = Clock(), [SlotCounts(1, 1)]
    busy = Busy(Slots("cuda", preparing=1, now=lambda at_work: there[-1]), clock)
    # the first node comes at 50, the second at 130, and goes at 170
    for clock.now, held in (
        (0.0, SlotCounts(1, 1)),
        (50.0, SlotCounts(4, 1)),
        (130.0, SlotCounts(10, 2)),
        (170.0, SlotCounts(4, 1)),
    ):
        there.append(held)
        busy.look()
        if clock.now == 50.0:
            clock.now = 100.0
            busy.add(unit({"decode": 4.0, "forward": 6.0}, "a:1"))  # begun at 90, when four tasks had a place
        if clock.now == 130.0:
            clock.now = 150.0
            busy.add(unit({"decode": 4.0, "forward": 9.0, "write": 1.0, "wait": 7.0}, "b:1"))  # begun at 140
            assert busy.replicas == 2
    assert busy.replicas == 1
    clock.now = 190.0
    busy.add(unit({"decode": 4.0, "forward": 9.0}, "a:1"))
    # tasks: 40 s of 4, 40 of 10, 20 of 4; replicas: one for 100 s, another one from 140 to 170
    assert busy.shares == pytest.approx({"decode": 12 / 640, "forward": 24 / 130, "write": 1 / 130, "wait": 7 / 130})


def test_a_cluster_from_none_is_not_busy_beyond_what_it_has():
    clock, nodes = Clock(), [SlotCounts(1, 1)]
    busy = Busy(Slots("cuda", preparing=1, fetch_threads=16, now=lambda at_work: nodes[-1]), clock)
    nodes.append(SlotCounts(24, 8))  # none had been looked at since the start
    for second in range(1, 11):
        clock.now = 300.0 + second
        busy.add(unit({"decode": 2.4, "forward": 0.9}, "a:1"))
    # the first unit began at 297.7
    assert busy.shares["decode"] == pytest.approx(24 / (24 * 12.3))
    assert busy.shares["forward"] == pytest.approx(9 / 12.3)


def test_advice_reckons_with_the_places_that_there_were_on_average():
    clock, held = Clock(), [SlotCounts(1, 1)]
    busy = Busy(Slots("cuda", now=lambda at_work: held[-1]), clock)
    for now, there in ((10.0, SlotCounts(2, 1)), (20.0, SlotCounts(8, 4))):
        held.append(there)
        busy.look()
        clock.now = now
    clock.now = 20.0
    busy.add(unit({"forward": 0.0}))
    for second, replica in enumerate("abcd"):
        clock.now = 21.0 + second
        busy.add(unit({"decode": 8.0, "forward": 1.0}, replica))
    # 4 s of 8 tasks, all busy; five came at 20, 20, 21, 22 and 23, at most four at once: 2 + 3 + 4 + 4 place seconds
    assert busy.shares == pytest.approx({"decode": 1.0, "forward": 4 / 13})
    # 32 / 13 cores keep one replica busy for 4 / 13 of its time: 32 / 4 would do for all of it, which is 5.5 more
    assert "about 6 more cores per GPU" in busy.lines()[1]


def test_stages_appear_when_they_are_seen():
    busy = Busy(Slots(), Clock())
    busy.add(unit(None))
    busy.add(unit({"fetch": 2.0}))
    busy.add(unit({"write": 1.0}))
    assert busy.seconds == {"fetch": 2.0, "write": 1.0}


@pytest.mark.parametrize(
    ("shares", "places", "replicas", "said"),
    [
        ({"forward": 0.97, "decode": 0.35}, Slots("cuda", 8), 1, "the model is the bottleneck: more GPUs"),
        ({"forward": 0.97, "decode": 0.9}, Slots("cuda", 8), 1, "model.precision=bf16"),
        ({"forward": 0.9}, Slots("cpu", 1), 1, "the model is the bottleneck: a GPU, more CPUs"),
        # 8 tasks feed a GPU for 40 % of its time: 20 would for all of it, which are 12 more
        ({"forward": 0.4, "decode": 1.0}, Slots("cuda", 8), 1, "about 12 more cores per GPU"),
        ({"forward": 0.4, "decode": 1.0}, Slots("cuda", 8), 2, "about 6 more cores per GPU"),
        ({"forward": 0.8, "decode": 0.75}, Slots("cuda", 1), 4, "about 1 more core per GPU"),
        ({"forward": 0.0, "decode": 1.0}, Slots("cpu", 1), 1, "about 19 more cores per actor"),
        ({"forward": 0.3, "fetch": 0.7, "decode": 0.2}, Slots("cuda", 4, 16), 1, "input.fetch_threads (now 16)"),
        ({"forward": 0.5, "postprocess": 0.9}, Slots("cuda", 4), 1, "compute.gpus_per_actor"),
        ({"forward": 0.5, "postprocess": 0.9}, Slots("cpu", 4), 1, "more compute.actors"),
        ({"forward": 0.5, "write": 0.9}, Slots("cuda", 4), 1, "writing is the bottleneck"),
        ({"forward": 0.5, "decode": 0.3}, Slots("cuda", 4), 1, "no stage is full"),
        ({}, Slots(), 1, "no stage is full"),
    ],
)
def test_advice_names_the_bottleneck_and_a_config_key(shares, places, replicas, said):
    line = advice(shares, places, replicas)
    assert said in line
    assert "\n" not in line


def test_shares_that_were_not_seen_are_zero():
    assert shares_line({"forward": 0.5}) == "busy  fetch 0 %  decode 0 %  forward 50 %  postprocess 0 %  write 0 %"


def test_progress_counts_units_but_not_those_that_failed_in_passing():
    progress = Progress(10, Slots(), lambda _: None)
    progress.add(unit({"forward": 3.0}, ok=2, error=1, reasons=[("decode/Truncated", 1)]))
    progress.add({**unit({"fetch": 100.0}), "transient": "s3: SlowDown"})
    assert (progress.done, progress.transient) == (3, ["s3: SlowDown"])
    assert progress.tally.reasons == {"decode/Truncated": 1}
    assert progress.busy.seconds == {"forward": 3.0}
    assert progress.line().startswith("3 of 10 images")
