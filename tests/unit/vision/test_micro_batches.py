"""Which images go together and how many, without a model."""

from dataclasses import dataclass

import pytest

from m2f_batch.vision.device.micro_batches import LARGEST, PATIENCE, BatchSizes, Buffer, find_batch_size

SMALL, WIDE, TALL = (32, 32), (32, 64), (64, 32)


@dataclass(frozen=True, eq=False)
class Waits:
    canvas_hw: tuple[int, int]


def job(canvas: tuple[int, int]) -> Waits:
    return Waits(canvas)


def test_a_full_group_goes_first_then_that_of_the_oldest():
    buffer = Buffer()
    jobs = [job(canvas) for canvas in (WIDE, SMALL, TALL, SMALL, SMALL, TALL)]
    buffer.put(jobs)
    taken = [buffer.take(lambda canvas: 2) for _ in range(5)]
    assert taken == [[jobs[1], jobs[3]], [jobs[2], jobs[5]], [jobs[0]], [jobs[4]], []]


def test_what_comes_later_fills_a_group_up():
    buffer = Buffer()
    first, later = job(SMALL), job(SMALL)
    buffer.put([first])
    buffer.put([job(WIDE), later])
    assert buffer.take(lambda canvas: 3) == [first, later]


def test_no_view_waits_for_ever():
    buffer = Buffer()
    rare = job(WIDE)
    buffer.put([rare])
    for _taken in range(PATIENCE + 1):
        buffer.put([job(SMALL), job(SMALL)])
        if rare in buffer.take(lambda canvas: 2):
            break
    assert _taken == PATIENCE, "full groups may overtake it so often, and no more"


def test_one_at_a_time_is_first_come_first_served():
    buffer = Buffer()
    jobs = [job((SMALL, WIDE, TALL)[number % 3]) for number in range(30)]
    buffer.put(jobs)
    assert [buffer.take(lambda canvas: 1) for _ in jobs] == [[one] for one in jobs]


def test_the_commonest_canvas():
    buffer = Buffer()
    assert buffer.commonest() is None
    buffer.put([job(canvas) for canvas in (WIDE, SMALL, SMALL)])
    assert buffer.commonest().canvas_hw == SMALL


def test_a_given_size_is_that_of_every_canvas_until_it_does_not_fit():
    sizes = BatchSizes(8)
    assert (sizes.of(SMALL), sizes.of((4000, 4000))) == (8, 8)
    sizes.halve(SMALL, 7)
    assert (sizes.of(SMALL), sizes.of(WIDE)) == (3, 8)
    sizes.halve(SMALL, 1)
    assert sizes.of(SMALL) == 1


def test_a_size_that_was_found_holds_for_its_pixels():
    sizes = BatchSizes(None)
    assert sizes.of(SMALL) == 1, "not known yet"
    sizes.found(8, SMALL)
    assert [sizes.of(canvas) for canvas in (SMALL, WIDE, (64, 64), (320, 320), (1, 1))] == [8, 4, 2, 1, LARGEST]


@pytest.mark.parametrize(
    ("seconds_of", "found", "tried"),
    [
        (lambda size: 0.001 * size, 1, [1, 2]),  # nothing is gained
        (lambda size: 0.001, LARGEST, [1, 2, 4, 8, 16, 32, 64]),  # each doubling doubles the rate
        (lambda size: 0.001 * max(size, 8), 8, [1, 2, 4, 8, 16]),  # full at 8
        (lambda size: 0.001 if size < 16 else None, 8, [1, 2, 4, 8, 16]),  # 16 take too much memory
        (lambda size: None, 1, [1]),
        (lambda size: 0.9, 4, [1, 2, 4]),  # another might take 1.8 s, which is beyond 4 s
        (lambda size: 60.0, 1, [1]),
    ],
)
def test_the_batch_size_is_where_more_images_give_no_more_speed(seconds_of, found, tried):
    sizes = []

    def timed(size: int) -> float | None:
        sizes.append(size)
        return seconds_of(size)

    assert find_batch_size(timed) == found
    assert sizes == tried
