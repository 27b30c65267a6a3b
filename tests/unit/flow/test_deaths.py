"""What was begun and not ended is counted, whoever asks at once."""

from concurrent.futures import ThreadPoolExecutor

from m2f_batch.flow.crashes.deaths import Deaths


def test_tries_that_did_not_end_are_counted_by_unit_and_stage():
    deaths = Deaths()
    assert [deaths.begin("a", "prepare") for _ in range(3)] == [0, 1, 2]
    assert (deaths.begin("a", "label"), deaths.begin("b", "prepare")) == (0, 0)
    assert deaths.in_flight() == {("a", "prepare"), ("a", "label"), ("b", "prepare")}
    deaths.end("a", "prepare")
    assert deaths.in_flight() == {("a", "label"), ("b", "prepare")}
    assert deaths.begin("a", "label") == 1, "the other stage's end says nothing of this one"


def test_an_end_forgets_whatever_was_begun():
    deaths = Deaths()
    deaths.begin("a", "label")
    deaths.begin("a", "label")  # Ray's second try, while the first one runs on
    deaths.end("a", "label")
    deaths.end("a", "label")  # and the other one ends too
    deaths.end("never begun", "label")
    assert deaths.in_flight() == set()
    assert deaths.begin("a", "label") == 0


def test_what_it_hands_out_is_a_copy():
    deaths = Deaths()
    deaths.begin("a", "label")
    deaths.in_flight().clear()
    assert deaths.in_flight() == {("a", "label")}


def test_replicas_since_a_unit_was_labelled():
    deaths = Deaths()
    assert [deaths.replica_started() for _ in range(3)] == [1, 2, 3]
    deaths.unit_labeled()
    assert deaths.replica_started() == 1


def test_threads_lose_no_count():
    deaths = Deaths()

    def work(_: int) -> tuple[int, int]:
        return deaths.begin("a", "label"), deaths.replica_started()

    with ThreadPoolExecutor(16) as callers:
        counted = list(callers.map(work, range(2000)))
    assert sorted(begun for begun, _ in counted) == list(range(2000))
    assert sorted(started for _, started in counted) == list(range(1, 2001))
