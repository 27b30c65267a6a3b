"""Which stage a run waits for: seconds by stage, the share of its places that each kept busy, and what to change.

A stage's busy share is its seconds over the seconds that all its places had. Those are counted as places come and go,
from the start of the first unit to the arrival of the last one.

    fetch, decode              waiting for bytes; CPU seconds of decoding and resizing. Places: tasks at once, by the
                               nodes that were there at each moment
    forward, postprocess, ...  what the replicas say of themselves. Places: replicas that have delivered a unit, each
                               from the start of its first one on, no more than the nodes held at each moment, for some
                               have come for dead ones; a replica with several threads of post-processing may be above
                               100 %
    write                      committing a unit's file. Places: replicas, since each unit is written while the
                               replica that labelled it computes the next
"""

import math
import time
from bisect import bisect, insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from m2f_batch.ray_session.held import Held

STAGES = ("fetch", "decode", "forward", "postprocess", "write")
PREPARING = ("fetch", "decode")  # stages of tasks; all others are a replica's
DEVICE_BUSY, STAGE_BUSY = 0.85, 0.7  # from these shares on, a stage is what the others wait for


@dataclass(frozen=True)
class Places:
    """What a run was given: the device of its replicas, tasks that fetch and decode at once, threads of each; the most
    replicas that there are at once.

    Where nodes come and go, ``now`` says what they hold at the moment, None when nobody knows. It is given how many
    replicas are known to be at work.
    """

    device: str = "cpu"
    preparing: float = 1.0
    fetch_threads: int = 1
    replicas: float = math.inf
    now: Callable[[int], Held | None] | None = None


class Busy:
    """Seconds by stage of all units that have arrived."""

    def __init__(self, places: Places, clock: Callable[[], float] = time.monotonic) -> None:
        self._places, self._clock = places, clock
        self._last = 0.0
        self._held = [(-math.inf, Held(places.preparing, places.replicas))]  # since when
        self._replicas: set[str] = set()
        self._came: list[float] = []  # when each of them began its first unit
        self.seconds: Mapping[str, float] = {}

    def look(self) -> None:
        """Take notice of nodes that have come or gone. To be called every few seconds."""
        held = self._places.now(self.replicas) if self._places.now else None
        if held is not None and held != self._held[-1][1]:
            # a new list, not a longer one: another thread may be adding up
            self._held = [*self._held, (self._clock(), held)]

    def add(self, unit: Mapping[str, Any]) -> None:
        """Count one committed unit: its ``seconds`` by stage and the ``replica`` that labelled it."""
        spent = dict(unit["seconds"] or ())
        self._last = self._clock()
        if not self._came:
            self.look()
            self._held = [(-math.inf, self._held[-1][1])]  # what was there before anything was done is no matter
        if unit["replica"] not in self._replicas:
            # a unit was begun before it arrived; waiting for it is nobody's stage, and tasks prepared all but the first
            before = {"wait", *PREPARING} if self._came else {"wait"}
            began = self._last - sum(seconds for stage, seconds in spent.items() if stage not in before)
            self._replicas.add(unit["replica"])
            came = [*self._came]
            insort(came, max(began, came[0]) if came else began)
            self._came = came
        # a new one, not a changed one: the thread that shows it must never see half a unit
        self.seconds = {
            stage: self.seconds.get(stage, 0.0) + spent.get(stage, 0.0) for stage in {**self.seconds, **spent}
        }

    @property
    def replicas(self) -> int:
        """How many are at work that have delivered a unit; those that died are not, once others have come for them."""
        return int(min(len(self._replicas), self._held[-1][1].replicas))

    def _place_seconds(self) -> tuple[float, float, float]:
        """Since the first unit began: seconds, those of all tasks' places, those of all replicas."""
        last, came, held = self._last, self._came, self._held
        if not came:
            return 0.0, 0.0, 0.0
        preparing = replicas = 0.0
        since = [moment for moment, _ in held]
        moments = sorted({max(moment, came[0]) for moment in since} | {*came, last})
        for begin, end in pairwise(moments[: bisect(moments, last)]):
            now = held[bisect(since, begin) - 1][1]
            preparing += (end - begin) * now.preparing
            replicas += (end - begin) * min(bisect(came, begin), max(1.0, now.replicas))
        return last - came[0], preparing, replicas

    @property
    def shares(self) -> dict[str, float]:
        """Busy share of each stage that has been seen; nothing before the first unit."""
        window, preparing, replicas = self._place_seconds()
        if window <= 0:
            return {}
        return {
            stage: seconds / (preparing if stage in PREPARING else replicas) for stage, seconds in self.seconds.items()
        }

    def report(self) -> dict[str, dict[str, float]]:
        """Seconds and busy share by stage, for run.json."""
        shares = self.shares
        return {
            stage: {"seconds": round(seconds, 3), "busy": round(shares.get(stage, 0.0), 3)}
            for stage, seconds in self.seconds.items()
        }

    def lines(self) -> list[str]:
        """The shares, and what to change, in a line each; nothing before the first unit."""
        shares = self.shares
        if not shares:
            return []
        window, preparing, replicas = self._place_seconds()
        on_average = replace(self._places, preparing=preparing / window)
        return [shares_line(shares), f"      {advice(shares, on_average, replicas / window)}"]


def shares_line(shares: Mapping[str, float]) -> str:
    """Busy shares in the order of the stages.

    >>> shares_line({"fetch": 0.12, "decode": 0.35, "forward": 0.97, "postprocess": 0.08, "write": 0.01})
    'busy  fetch 12 %  decode 35 %  forward 97 %  postprocess 8 %  write 1 %'
    """
    return "busy  " + "  ".join(f"{stage} {100 * shares.get(stage, 0.0):.0f} %" for stage in STAGES)


def advice(shares: Mapping[str, float], places: Places, replicas: float) -> str:
    """The bottleneck and what to change, in one line; ``replicas`` is how many were at work, on average."""
    fetch, decode, forward, postprocess, write = (shares.get(stage, 0.0) for stage in STAGES)
    if forward >= DEVICE_BUSY:
        return f"the model is the bottleneck: {faster_model(places.device)}"
    if fetch + decode >= STAGE_BUSY and fetch > decode:
        return (
            f"fetching is the bottleneck: more input.fetch_threads (now {places.fetch_threads}) or more CPUs, unless "
            "storage throttles or the network is full"
        )
    if fetch + decode >= STAGE_BUSY:
        missing = places.preparing * (fetch + decode) * (1 / max(forward, 0.05) - 1) / replicas
        cores = max(1, math.ceil(missing))
        return (
            f"decoding is the bottleneck: more CPUs (decode needs about {cores} more core{'s' if cores > 1 else ''} "
            f"per {'GPU' if places.device == 'cuda' else 'actor'})"
        )
    if postprocess >= STAGE_BUSY:
        return f"post-processing is the bottleneck: {cheaper_postprocessing(places.device)}"
    if write >= STAGE_BUSY:
        return "writing is the bottleneck: OUTPUT on faster storage, or a larger output.images_per_file"
    return "no stage is full: the run is too short to tell, or units wait (a smaller output.images_per_file)"


def cheaper_postprocessing(device: str) -> str:
    """What makes post-processing hold up a device less."""
    on_gpu = "more CPUs per GPU, or two actors on each (compute.gpus_per_actor=0.5)"
    more = on_gpu if device == "cuda" else "more compute.actors"
    return f"{more}, or fewer masks (a higher postprocess.score_threshold, a lower postprocess.top_k)"


def faster_model(device: str) -> str:
    """What makes the forward pass of a device faster."""
    if device == "cuda":
        return "more GPUs and compute.actors, model.precision=bf16, or a smaller preprocess.size"
    return "a GPU, more CPUs and compute.actors, or a smaller preprocess.size"
