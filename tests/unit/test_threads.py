"""One number of CPU threads while something computes, and nobody's own number changed by it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from m2f_batch.vision.threads import pinned_threads, process_threads


def number_of_the_process() -> int:
    """What a new thread begins with."""
    with ThreadPoolExecutor(1) as fresh:
        return fresh.submit(torch.get_num_threads).result()


@pytest.fixture(autouse=True)
def five_threads():
    with pinned_threads(5):
        yield


def test_the_process_has_the_number_and_the_caller_keeps_its_own():
    with process_threads(3):
        assert number_of_the_process() == 3
        assert torch.get_num_threads() == 5
    assert number_of_the_process() == 5


def test_several_share_one_number_until_the_last_is_done():
    with process_threads(3):
        with process_threads(3):
            pass
        assert number_of_the_process() == 3
    assert number_of_the_process() == 5


def test_another_number_waits():
    seen, entered = [], threading.Event()

    def other() -> None:
        entered.set()
        with process_threads(4):
            seen.append(number_of_the_process())

    with process_threads(3):
        waiting = threading.Thread(target=other)
        waiting.start()
        entered.wait()
        with process_threads(3):
            assert number_of_the_process() == 3
        assert seen == []
    waiting.join(timeout=60)
    assert seen == [4]
    assert number_of_the_process() == 5


def test_the_number_comes_back_after_an_error():
    with pytest.raises(ZeroDivisionError), process_threads(3):
        raise ZeroDivisionError
    assert number_of_the_process() == 5
