"""Writes and reads checkpoints of a training, on a disk or in a bucket, each appearing whole.

    OUTPUT/checkpoints/000000500/state.pt            weights, optimizer, moving average (torch.save of plain tensors)
    OUTPUT/checkpoints/000000500/checkpoint.json     written last: without it there is no checkpoint

A thread writes them from a copy of the state while training goes on. They hold no random numbers, because all follow
from the seed and the step. What a kill left of one is deleted once the next is whole.
"""

import io
import json
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m2f_batch.errors import Plain, RunError
from m2f_batch.runs.held_folder import HeldFolder, json_bytes
from m2f_batch.storage.retries import retry_write
from m2f_batch.storage.store import NotFound
from m2f_batch.train.layout import CHECKPOINTS, MARKER, STATE, begun


def write(place: HeldFolder, step: int, state: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    """Write the checkpoint after ``step`` steps: a tree of tensors and numbers, and its ``info`` as JSON.

    Raises Fenced when another run has taken over, TransientError when storage does not answer for long.
    """
    with tempfile.TemporaryDirectory(prefix="m2f-batch-") as scratch:
        file = Path(scratch) / STATE
        torch.save(dict(state), file)
        retry_write(lambda: place.upload(file, _name(step, STATE)))
        size = file.stat().st_size
    retry_write(lambda: place.write(_name(step, MARKER), json_bytes({**info, "step": step, "bytes": size})))


def read(place: HeldFolder, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the state (on the CPU) and the information of a checkpoint. Raises RunError when it is damaged."""
    info: dict[str, Any] = json.loads(retry_write(lambda: place.store.read(place.path(_name(step, MARKER)))))
    uri = place.path(_name(step, STATE))
    try:
        data = retry_write(lambda: place.store.read(uri))
    except NotFound:
        raise RunError(
            "is gone; delete its folder, and the same command takes an older one", field="output.uri", value=Plain(uri)
        ) from None
    if len(data) != info["bytes"]:
        raise RunError(
            f"has {len(data)} bytes instead of {info['bytes']}; delete its folder, and the same command "
            "takes an older one",
            field="output.uri",
            value=Plain(uri),
        )
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state, info


def prune(place: HeldFolder, keep: int, best: int | None) -> None:
    """Delete all checkpoints but the last ``keep`` and the best one, their markers first.

    Remains of older ones, which a kill left without a marker, are deleted too. Files above the last whole checkpoint
    stay, because a newer process may be writing them while this one, cut off from it, is late.
    """
    steps = begun(place)
    whole = [step for step, names in steps.items() if MARKER in names]
    kept = {*whole[-keep:], best}
    for step, names in steps.items():
        if step not in kept and step < max(whole, default=0):
            # older releases wrote their temporary files here
            parts = {name for name in names if name == STATE or name.endswith(".tmp")}
            for name in (MARKER, *sorted(parts)):
                retry_write(partial(place.delete, [place.path(_name(step, name))]))
            place.store.prune(place.path(f"{CHECKPOINTS}/{step:09d}"))


def snapshot(tree: Any) -> Any:
    """Copy a tree of dicts, lists and tensors, with its tensors on the CPU."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, Mapping):
        return {key: snapshot(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(snapshot(value) for value in tree)
    return tree


class Writer:
    """Writes one thing after the other beside training, while at most one waits. A context manager.

    A fault is raised at the next call, or at the end.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._last: Future[None] | None = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=False)
        if kind is None:
            self.wait()

    @property
    def is_idle(self) -> bool:
        """True while nothing is written."""
        return self._last is None or self._last.done()

    def submit(self, act: Callable[[], None]) -> None:
        """Do ``act`` soon, once what was submitted before is done."""
        self.wait()
        self._last = self._pool.submit(act)

    def wait(self) -> None:
        """Return when all is written."""
        if self._last is not None:
            last, self._last = self._last, None
            last.result()


def _name(step: int, file: str) -> str:
    return f"{CHECKPOINTS}/{step:09d}/{file}"
