"""Connects the processes that train together: sums (``all_reduce``), gathers and the same decision on every rank.

A process that trains alone has rank 0 of size 1, and needs no process group.
"""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

_T = TypeVar("_T")


def rank() -> int:
    """Return the rank of this process, 0 alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Return the number of processes, 1 alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def total(values: Tensor) -> Tensor:
    """Return the sum of ``values``, of any shape, over all ranks."""
    if size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def any_rank(flag: bool, device: torch.device) -> bool:
    """Return whether ``flag`` is set on any rank."""
    return bool(total(torch.tensor(float(flag), device=device)) > 0)


def gathered(value: _T) -> list[_T]:
    """Return the value of each rank, in order. Values are small Python objects."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()  # filled in place
    dist.all_gather_object(values, value)
    return values


def from_first_rank(value: _T) -> _T:
    """Return the value of rank 0 on every rank."""
    if size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
