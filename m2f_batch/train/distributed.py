"""The processes that train together: sums, gathers and the same decision everywhere. One process alone needs none."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Which of the processes this is; 0 alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many there are; 1 alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def total(values: Tensor) -> Tensor:
    """The sum of ``values`` over all processes, the same on each; any shape."""
    if size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def anyone(flag: bool, device: torch.device) -> bool:
    """Whether any process says so."""
    return bool(total(torch.tensor(float(flag), device=device)) > 0)


def gathered(value: Any) -> list[Any]:
    """What each process has, by rank; small Python objects."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


def told_by_first(value: Any) -> Any:
    """What the process of rank 0 has, everywhere."""
    if size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
