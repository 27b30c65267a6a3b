"""Keeps memory from one step to the next on CPU, and explains a step that does not fit on the device."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from m2f_batch.errors import RunError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_memory() -> bool:
    """Let freed memory stay with this process, and return whether its C library can.

    glibc gives blocks of more than 32 MiB back to the system, and getting them again costs a page fault every 4 KiB:
    a fifth to a third of a training step on CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))


@contextmanager
def memory_explained() -> Iterator[None]:
    """Raise RunError, which says what takes less memory, because another try would end the same."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise RunError(
            "out of memory on the device; raise train.accumulate, set train.activation_checkpointing, or take a "
            "smaller augment.crop_size. The first two may change in a training that has begun"
        ) from None
