"""Which stage a run waits for: seconds by stage, the share of its places that each kept busy, and what to change.

A stage's busy share is its seconds over the seconds that all its places had: the time from the start of the first unit
to the arrival of the last one, times the number of places.

    fetch, decode              waiting for bytes; CPU seconds of decoding and resizing. Places: tasks at once
    forward, postprocess, ...  what the replicas say of themselves. Places: replicas that have delivered a unit,
                               no more than there are at once, for some have come for dead ones; a replica with
                               several threads of post-processing may be above 100 %
    write                      committing a unit's file. Places: replicas, since each unit is written while the
                               replica that labelled it computes the next
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

STAGES = ("fetch", "decode", "forward", "postprocess", "write")
DEVICE_BUSY, STAGE_BUSY = 0.85, 0.7  # from these shares on, a stage is what the others wait for


@dataclass(frozen=True)
class Places:
    """What a run was given: the device of its replicas, tasks that fetch and decode at once, threads of each; the most
    replicas that there are at once."""

    device: str = "cpu"
    preparing: float = 1.0
    fetch_threads: int = 1
    replicas: float = math.inf


class Busy:
    """Seconds by stage of all units that have arrived."""

    def __init__(self, places: Places, clock: Callable[[], float] = time.monotonic) -> None:
        self._places, self._clock = places, clock
        self._began = self._last = 0.0
        self._replicas: set[str] = set()
        self.seconds: Mapping[str, float] = {}

    def add(self, unit: Mapping[str, Any]) -> None:
        """Count one committed unit: its ``seconds`` by stage and the ``replica`` that labelled it."""
        spent = dict(unit["seconds"] or ())
        self._last = self._clock()
        if not self.seconds:
            # the first unit was begun before it arrived; waiting for it is nobody's stage
            self._began = self._last - sum(seconds for stage, seconds in spent.items() if stage != "wait")
        self._replicas.add(unit["replica"])
        # a new one, not a changed one: the thread that shows it must never see half a unit
        self.seconds = {
            stage: self.seconds.get(stage, 0.0) + spent.get(stage, 0.0) for stage in {**self.seconds, **spent}
        }

    @property
    def replicas(self) -> int:
        """How many are at work that have delivered a unit; those that died are not, once others have come for them."""
        return int(min(len(self._replicas), self._places.replicas))

    @property
    def shares(self) -> dict[str, float]:
        """Busy share of each stage that has been seen; nothing before the first unit."""
        window = self._last - self._began
        if window <= 0:
            return {}
        places = {"fetch": self._places.preparing, "decode": self._places.preparing}
        replicas = max(1, self.replicas)
        return {stage: seconds / (window * places.get(stage, replicas)) for stage, seconds in self.seconds.items()}

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
        return [shares_line(shares), f"      {advice(shares, self._places, max(1, self.replicas))}"]


def shares_line(shares: Mapping[str, float]) -> str:
    """Busy shares in the order of the stages.

    >>> shares_line({"fetch": 0.12, "decode": 0.35, "forward": 0.97, "postprocess": 0.08, "write": 0.01})
    'busy  fetch 12 %  decode 35 %  forward 97 %  postprocess 8 %  write 1 %'
    """
    return "busy  " + "  ".join(f"{stage} {100 * shares.get(stage, 0.0):.0f} %" for stage in STAGES)


def advice(shares: Mapping[str, float], places: Places, replicas: int) -> str:
    """The bottleneck and what to change, in one line; ``replicas`` is how many are at work."""
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
