"""Trying again: how long, how often, and what is counted."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from m2f_batch.errors import TransientError
from m2f_batch.inputs import fetch
from m2f_batch.storage.retries import Retries, count_retry, retried
from m2f_batch.storage.store import NotFound, StoreUnavailable, Unreachable


class Failing:
    """Fails so many times, then returns ``result``."""

    def __init__(self, times: int, error: Exception | None = None, result: object = "done") -> None:
        self.left, self.tries, self.error, self.result = times, 0, error or TransientError("busy"), result

    def __call__(self) -> object:
        self.tries += 1
        if self.tries <= self.left:
            raise self.error
        return self.result


@pytest.mark.parametrize("result", [b"bytes", True, None, {"any": "thing"}])
def test_what_the_act_returns_once_it_works(result: object) -> None:
    before, retries = retried(), Retries(sleep=lambda _: None)
    assert retries.run(Failing(3, result=result)) is result
    assert (retries.count, retried() - before) == (3, 3)


def test_waits_grow_up_to_a_bound_and_are_drawn_at_random() -> None:
    waits: list[float] = []
    Retries(budget=1e9, first_wait=1.0, longest_wait=8.0, sleep=waits.append).run(Failing(200))
    for number, wait in enumerate(waits):
        assert 0 <= wait <= min(8.0, 2.0**number)
    assert max(waits[:3]) <= 4.0 and max(waits) > 4.0
    assert len({*waits}) == 200 and min(waits[3:]) < 1.0


def test_no_try_begins_after_the_budget() -> None:
    act = Failing(10**9)
    with pytest.raises(TransientError, match=r"^busy \(\d+ tries in 0.2 s\)$"):
        Retries(budget=0.2, first_wait=0.01, longest_wait=0.02).run(act)
    assert act.tries >= 10
    act = Failing(10**9)
    with pytest.raises(TransientError, match=r"^busy \(1 tries in 0 s\)$"):
        Retries(budget=0).run(act)
    assert act.tries == 1


def test_a_place_that_is_away_is_waited_for_and_stays_that_error() -> None:
    assert Retries(sleep=lambda _: None).run(Failing(2, Unreachable("away"))) == "done"
    with pytest.raises(Unreachable, match="away"):
        Retries(budget=0).run(Failing(1, Unreachable("away")))


@pytest.mark.parametrize(
    "error", [NotFound("none"), StoreUnavailable("keys"), ValueError("a bug"), KeyboardInterrupt()]
)
def test_any_other_error_is_raised_at_once(error: Exception) -> None:
    act, before = Failing(1, error), retried()
    with pytest.raises(type(error)) as caught:
        Retries().run(act)
    assert caught.value is error and act.tries == 1 and retried() == before


def test_threads_share_the_counts() -> None:
    before, retries, start = retried(), Retries(sleep=lambda _: None), threading.Barrier(8)

    def work(_: int) -> None:
        start.wait()
        for _ in range(200):
            retries.run(Failing(2))
            count_retry()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert (retries.count, retried() - before) == (8 * 400, 8 * 600)


def test_the_old_place_still_has_it() -> None:
    assert fetch.Retries is Retries
