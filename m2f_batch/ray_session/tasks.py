"""Maps a function over a cluster in tasks, on CPUs that are free."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from m2f_batch.ray_session.nodes import starts_nodes

_A = TypeVar("_A")
_T = TypeVar("_T")
LOOK_SECONDS = 2.0  # until Ray's count of free CPUs was seen to follow


def on_cluster(act: Callable[[_A], _T], items: Iterable[_A]) -> Iterator[_T]:
    """Map in tasks of one CPU each, in the order in which they end, no more at once than the cluster has free.

    A task that waited for a CPU would make an autoscaler start a node, for the few seconds that this takes. Half of the
    CPUs are left free for it, because it hears of waiting tasks and of free CPUs from different nodes, not at one time.
    """
    task, share = ray.remote(num_cpus=1)(act), 2 if starts_nodes() else 1
    left, running = iter(items), list[Any]()
    looked_at, room = -math.inf, 0
    try:
        while True:
            if time.monotonic() - looked_at > LOOK_SECONDS:  # what was begun just now is not counted at once
                free = int(ray.available_resources().get("CPU", 0.0)) + len(running)
                looked_at, room = time.monotonic(), max(free // share - len(running), not running)
            started = [task.remote(item) for item in islice(left, room)]
            running, room = running + started, 0
            if not running:
                return
            done, running = ray.wait(running, timeout=LOOK_SECONDS)
            room = len(done)
            yield from ray.get(done)
    finally:
        for each in running:  # after an error, or where nobody asks for the rest
            with suppress(RayError):
                ray.cancel(each)
