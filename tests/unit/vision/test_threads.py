"""A number of CPU threads for one thread that computes, and for no other."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from m2f_batch.vision.device.threads import pin_threads, pinned_threads


def numbers() -> tuple[int, int]:
    """Threads of torch and of MKL in this thread."""
    mkl = [line for line in torch.__config__.parallel_info().splitlines() if "mkl_get_max_threads" in line]
    return torch.get_num_threads(), int(mkl[0].split(":")[1])


def numbers_of_a_new_thread() -> tuple[int, int]:
    with ThreadPoolExecutor(1) as fresh:
        return fresh.submit(numbers).result()


@pytest.fixture(autouse=True)
def five_threads():
    with pinned_threads(5):
        yield


def test_pinned_for_a_while():
    with pytest.raises(ZeroDivisionError), pinned_threads(3):
        assert torch.get_num_threads() == 3
        raise ZeroDivisionError
    assert torch.get_num_threads() == 5


def test_a_pinned_thread_keeps_its_number_and_the_others_theirs():
    pinned, checked, seen = threading.Event(), threading.Event(), []

    def compute() -> None:
        pin_threads(3)
        pinned.set()
        checked.wait(60)
        seen.append(numbers())

    thread = threading.Thread(target=compute)
    thread.start()
    pinned.wait(60)
    assert numbers() == (5, 5)
    assert numbers_of_a_new_thread() == (5, 5)
    with pinned_threads(2):
        checked.set()
        thread.join()
    assert seen == [(3, 3)]
