"""Busy shares, the advice that follows from them, and what a run says while it goes on."""

import pytest

from m2f_batch.flow.busy import Busy, Places, advice, shares_line
from m2f_batch.flow.progress import Progress, duration


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
    busy = Busy(Places(preparing=2), clock)
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
    busy = Busy(Places(), clock)
    for replica in ("a:1", "b:1", "a:1", "b:1"):
        clock.now += 5.0
        busy.add(unit({"forward": 9.0}, replica))
    # from -4 to 20 s: 36 of 2 x 24 place seconds
    assert busy.shares == pytest.approx({"forward": 0.75})


def test_a_replica_that_came_for_a_dead_one_is_no_place_more():
    clock = Clock()
    busy = Busy(Places(replicas=2), clock)
    for replica in ("a:1", "b:1", "a:1", "c:1", "d:1", "d:1"):  # b died, then a
        clock.now += 5.0
        busy.add(unit({"forward": 9.0}, replica))
    # from -4 to 30 s: 54 of 2 x 34 place seconds
    assert busy.replicas == 2 and busy.shares == pytest.approx({"forward": 54 / 68})


def test_stages_appear_when_they_are_seen():
    busy = Busy(Places(), Clock())
    busy.add(unit(None))
    busy.add(unit({"fetch": 2.0}))
    busy.add(unit({"write": 1.0}))
    assert busy.seconds == {"fetch": 2.0, "write": 1.0}


@pytest.mark.parametrize(
    ("shares", "places", "replicas", "said"),
    [
        ({"forward": 0.97, "decode": 0.35}, Places("cuda", 8), 1, "the model is the bottleneck: more GPUs"),
        ({"forward": 0.97, "decode": 0.9}, Places("cuda", 8), 1, "model.precision=bf16"),
        ({"forward": 0.9}, Places("cpu", 1), 1, "the model is the bottleneck: a GPU, more CPUs"),
        # 8 tasks feed a GPU for 40 % of its time: 20 would for all of it, which are 12 more
        ({"forward": 0.4, "decode": 1.0}, Places("cuda", 8), 1, "about 12 more cores per GPU"),
        ({"forward": 0.4, "decode": 1.0}, Places("cuda", 8), 2, "about 6 more cores per GPU"),
        ({"forward": 0.8, "decode": 0.75}, Places("cuda", 1), 4, "about 1 more core per GPU"),
        ({"forward": 0.0, "decode": 1.0}, Places("cpu", 1), 1, "about 19 more cores per actor"),
        ({"forward": 0.3, "fetch": 0.7, "decode": 0.2}, Places("cuda", 4, 16), 1, "input.fetch_threads (now 16)"),
        ({"forward": 0.5, "postprocess": 0.9}, Places("cuda", 4), 1, "compute.gpus_per_actor"),
        ({"forward": 0.5, "postprocess": 0.9}, Places("cpu", 4), 1, "more compute.actors"),
        ({"forward": 0.5, "write": 0.9}, Places("cuda", 4), 1, "writing is the bottleneck"),
        ({"forward": 0.5, "decode": 0.3}, Places("cuda", 4), 1, "no stage is full"),
        ({}, Places(), 1, "no stage is full"),
    ],
)
def test_advice_names_the_bottleneck_and_a_config_key(shares, places, replicas, said):
    line = advice(shares, places, replicas)
    assert said in line
    assert "\n" not in line


def test_shares_that_were_not_seen_are_zero():
    assert shares_line({"forward": 0.5}) == "busy  fetch 0 %  decode 0 %  forward 50 %  postprocess 0 %  write 0 %"


def test_progress_counts_units_but_not_those_that_failed_in_passing():
    progress = Progress(10, Places(), lambda _: None)
    progress.add(unit({"forward": 3.0}, ok=2, error=1, reasons=[("decode/Truncated", 1)]))
    progress.add({**unit({"fetch": 100.0}), "transient": "s3: SlowDown"})
    assert (progress.done, progress.transient) == (3, ["s3: SlowDown"])
    assert progress.tally.reasons == {"decode/Truncated": 1}
    assert progress.busy.seconds == {"forward": 3.0}
    assert progress.line().startswith("3 of 10 images")


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0 min 0 s"), (61.0, "1 min 1 s"), (3600 * 30.5, "30 h 30 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text
