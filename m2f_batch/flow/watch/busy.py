"""Finds the stage that a run waits for: seconds by stage, the busy share of its slots, and what to change.

A stage's busy share is its seconds over the seconds of all its slots. Slots are counted as they come and go, from the
start of the first unit to the arrival of the last one.

    fetch, decode              Waiting for bytes, and CPU seconds of decoding and resizing. Slots: tasks at once, by the
                               nodes that were there at each moment.
    forward, postprocess, ...  Seconds that the replicas report. Slots: replicas that have delivered a unit, each from
                               the start of its first one on, and no more than the nodes held at each moment, because
                               some replaced dead ones. A replica with several threads of post-processing may be above
                               100 %.
    write                      Committing a unit's file. Slots: replicas, because each unit is written while the
                               replica that labeled it computes the next.
"""

import math
import time
from bisect import bisect, insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from m2f_batch.flow.unit.units import DoneUnit
from m2f_batch.ray_session.slots import SlotCounts

STAGES = ("fetch", "decode", "forward", "postprocess", "write")
PREPARING = ("fetch", "decode")  # stages of tasks, while all others are a replica's
DEVICE_BUSY, STAGE_BUSY = 0.85, 0.7  # from these shares on, the others wait for a stage


@dataclass(frozen=True)
class Slots:
    """The slots of a run.

    device: the device of its replicas.
    preparing: tasks that fetch and decode at once.
    fetch_threads: threads of each of these tasks.
    replicas: the most replicas at once.
    now: asked where nodes come and go. Takes the number of replicas known to be at work, and returns what the nodes
        hold at the moment, None when nobody knows.
    """

    device: str = "cpu"
    preparing: float = 1.0
    fetch_threads: int = 1
    replicas: float = math.inf
    now: Callable[[int], SlotCounts | None] | None = None


class Busy:
    """Sums the seconds by stage of all units that have arrived."""

    def __init__(self, slots: Slots, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots, self._clock = slots, clock
        self._last = 0.0
        self._held = [(-math.inf, SlotCounts(slots.preparing, slots.replicas))]  # since when
        self._replicas: set[str | None] = set()
        self._came: list[float] = []  # when each of them began its first unit
        self.seconds: Mapping[str, float] = {}

    def look(self) -> None:
        """Take notice of nodes that have come or gone. Call it every few seconds."""
        held = self._slots.now(self.replicas) if self._slots.now else None
        if held is not None and held != self._held[-1][1]:
            # a new list, because another thread may be adding up the old one
            self._held = [*self._held, (self._clock(), held)]

    def add(self, unit: DoneUnit) -> None:
        """Count one committed unit: its ``seconds`` by stage and the ``replica`` that labeled it."""
        spent = dict(unit["seconds"] or ())
        self._last = self._clock()
        if not self._came:
            self.look()
            self._held = [(-math.inf, self._held[-1][1])]  # what was there before the first unit does not count
        if unit["replica"] not in self._replicas:
            # A unit was begun before it arrived. Waiting for it is no stage, and tasks prepared all but the first.
            before = {"wait", *PREPARING} if self._came else {"wait"}
            began = self._last - sum(seconds for stage, seconds in spent.items() if stage not in before)
            self._replicas.add(unit["replica"])
            came = [*self._came]
            insort(came, max(began, came[0]) if came else began)
            self._came = came
        # a new dict, because the thread that shows it must never see half a unit
        self.seconds = {
            stage: self.seconds.get(stage, 0.0) + spent.get(stage, 0.0) for stage in {**self.seconds, **spent}
        }

    @property
    def replicas(self) -> int:
        """The replicas at work that have delivered a unit, without dead ones that others have replaced."""
        return int(min(len(self._replicas), self._held[-1][1].replicas))

    def _slot_seconds(self) -> tuple[float, float, float]:
        """Return the seconds since the first unit began, those of all slots for tasks, those of all replicas."""
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
        """The busy share of each stage that has been seen, nothing before the first unit."""
        window, preparing, replicas = self._slot_seconds()
        if window <= 0:
            return {}
        return {
            stage: seconds / (preparing if stage in PREPARING else replicas) for stage, seconds in self.seconds.items()
        }

    def report(self) -> dict[str, dict[str, float]]:
        """Return seconds and busy share by stage, for run.json."""
        shares = self.shares
        return {
            stage: {"seconds": round(seconds, 3), "busy": round(shares.get(stage, 0.0), 3)}
            for stage, seconds in self.seconds.items()
        }

    def lines(self) -> list[str]:
        """Return the shares and the advice, in a line each, nothing before the first unit."""
        shares = self.shares
        if not shares:
            return []
        window, preparing, replicas = self._slot_seconds()
        on_average = replace(self._slots, preparing=preparing / window)
        return [shares_line(shares), f"      {advice(shares, on_average, replicas / window)}"]


def shares_line(shares: Mapping[str, float]) -> str:
    """Return the busy shares in the order of the stages.

    >>> shares_line({"fetch": 0.12, "decode": 0.35, "forward": 0.97, "postprocess": 0.08, "write": 0.01})
    'busy  fetch 12 %  decode 35 %  forward 97 %  postprocess 8 %  write 1 %'
    """
    return "busy  " + "  ".join(f"{stage} {100 * shares.get(stage, 0.0):.0f} %" for stage in STAGES)


def advice(shares: Mapping[str, float], slots: Slots, replicas: float) -> str:
    """Name the bottleneck and what to change, in one line. ``replicas`` is the average number at work."""
    fetch, decode, forward, postprocess, write = (shares.get(stage, 0.0) for stage in STAGES)
    if forward >= DEVICE_BUSY:
        return f"the model is the bottleneck: {faster_model(slots.device)}"
    if fetch + decode >= STAGE_BUSY and fetch > decode:
        return (
            f"fetching is the bottleneck: more input.fetch_threads (now {slots.fetch_threads}) or more CPUs, unless "
            "storage throttles or the network is full"
        )
    if fetch + decode >= STAGE_BUSY:
        missing = slots.preparing * (fetch + decode) * (1 / max(forward, 0.05) - 1) / replicas
        cores = max(1, math.ceil(missing))
        return (
            f"decoding is the bottleneck: more CPUs (decode needs about {cores} more core{'s' if cores > 1 else ''} "
            f"per {'GPU' if slots.device == 'cuda' else 'actor'})"
        )
    if postprocess >= STAGE_BUSY:
        return f"post-processing is the bottleneck: {cheaper_postprocessing(slots.device)}"
    if write >= STAGE_BUSY:
        return "writing is the bottleneck: OUTPUT on faster storage, or a larger output.images_per_file"
    return "no stage is full: the run is too short to tell, or units wait (a smaller output.images_per_file)"


def cheaper_postprocessing(device: str) -> str:
    """Advise how post-processing holds up a device less."""
    on_gpu = "more CPUs per GPU, or two actors on each (compute.gpus_per_actor=0.5)"
    more = on_gpu if device == "cuda" else "more compute.actors"
    return f"{more}, or fewer masks (a higher postprocess.score_threshold, a lower postprocess.top_k)"


def faster_model(device: str) -> str:
    """Advise how the forward pass of a device gets faster."""
    if device == "cuda":
        return "more GPUs and compute.actors, model.precision=bf16, or a smaller preprocess.size"
    return "a GPU, more CPUs and compute.actors, or a smaller preprocess.size"
