"""Notes, inside the process of a run, what a benchmark wants to know of it."""

import time
from contextlib import suppress
from typing import Any


def watch_store(times: dict[str, Any]) -> None:
    """Keep the most bytes that objects took in the store of this process's Ray, None until they were read once."""
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    times["store_bytes"] = None
    while True:
        time.sleep(2)
        with suppress(Exception):  # before Ray's start and after its end
            if ray.is_initialized():
                # its own address, because without one Ray refuses where another Ray runs on the machine
                state = get_state_from_address(ray.get_runtime_context().gcs_address)
                used = get_memory_info_reply(state).store_stats.object_store_bytes_used
                times["store_bytes"] = max(times["store_bytes"] or 0, used)


def time_calls(module: Any, name: str, times: dict[str, Any], key: str) -> None:
    """Keep when the last call of a function of a module began and ended, in seconds since the epoch."""
    act = getattr(module, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.time()
        try:
            return act(*args, **kwargs)
        finally:
            times[key] = (began, time.time())

    setattr(module, name, timed)
