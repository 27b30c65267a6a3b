"""What to do when a step does not fit on the device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from m2f_batch.errors import RunError


@contextmanager
def memory_told() -> Iterator[None]:
    """Raises RunError, with what takes less, in place of torch's OutOfMemoryError: another try would end the same."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise RunError(
            "out of memory on the device; raise train.accumulate, set train.activation_checkpointing, or take a "
            "smaller augment.crop_size. The first two may change in a training that has begun"
        ) from None
