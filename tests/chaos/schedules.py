"""What is done to a run, drawn from a seed: processes killed one after the other, faults of S3 all the time."""

import random
from dataclasses import asdict, dataclass, field
from typing import Any

# how often each is drawn; what they do is in ``disturbances``
KINDS = {
    "actor": 4,  # SIGKILL to a model replica
    "task": 3,  # SIGKILL to a worker that fetches, decodes or writes
    "helper": 1,  # SIGKILL to another actor of the run, or of Ray Data
    "node": 3,  # a raylet and all below it; another node comes later
    "raylet": 1,  # the raylet alone, its workers find out by themselves
    "driver-kill": 3,
    "driver-terminate": 1,  # SIGTERM
    "driver-interrupt": 1,  # SIGINT
    "driver-stop": 1,  # SIGSTOP, and SIGCONT later
    "driver-rival": 1,  # SIGSTOP, the same command again, and SIGCONT to the first
    "head": 1,  # the whole cluster, which starts anew
}
# a file of one unit or of several, or of the default number of images
SIZES = ("output.images_per_file", "run.images_per_unit")
SIZE_PAIRS = (("4", "4"), ("8", "4"), ("6", "6"), ("72", "4"), ("null", "3"))
DEFAULT_FILE = 32  # images per file of a small run
DRIVER_KINDS = frozenset(kind for kind in KINDS if kind.startswith("driver"))


@dataclass(frozen=True)
class Event:
    """``after`` seconds since the first file committed after the last event, or (``hasty``) since that event itself.

    Details: ``pause`` until the command is given again, or a lost node replaced; ``asleep`` of a stopped process
    (seconds).
    """

    kind: str
    after: float
    hasty: bool = False
    details: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """One run's events, where its files are (disk or s3), the share of requests that fail, and its settings."""

    seed: int
    place: str
    fault_rate: float
    settings: dict[str, str]
    events: tuple[Event, ...]

    def files(self, images: int) -> int:
        """How many files of results a run of so many images writes: one per unit, and those that they are joined to."""
        per_file, per_unit = (self.settings[name] for name in SIZES)
        in_file, in_unit = (DEFAULT_FILE if per_file == "null" else int(per_file)), int(per_unit)
        units = -(-images // in_unit)
        return units if in_file <= in_unit else units - (-images // in_file)

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def draw_schedule(
    seed: int, place: str | None = None, most_events: int = 6, without: tuple[str, ...] = (), lease_seconds: float = 6.0
) -> Schedule:
    """The schedule of a seed. Every second one kills the driver at least once, every second pair lies on S3."""
    rng = random.Random(f"chaos {seed}")
    place = place or ("disk" if seed // 2 % 2 else "s3")
    weights = {kind: weight for kind, weight in KINDS.items() if kind not in without}
    kinds = rng.choices(list(weights), weights=list(weights.values()), k=rng.randint(3, most_events))
    while kinds.count("head") > 1:  # half a minute each
        kinds[kinds.index("head")] = "actor"
    if seed % 2 == 0 and "driver-kill" not in kinds:
        kinds[rng.randrange(len(kinds))] = "driver-kill"
    return Schedule(
        seed=seed,
        place=place,
        fault_rate=round(rng.uniform(0.01, 0.08), 3) if place == "s3" else 0.0,
        settings={
            **dict(zip(SIZES, rng.choice(SIZE_PAIRS), strict=True)),
            "compute.actors": rng.choice(["2", "3", "[1, 3]"]),
        },
        events=tuple(_draw_event(rng, kind, lease_seconds) for kind in kinds),
    )


def _draw_event(rng: random.Random, kind: str, lease_seconds: float) -> Event:
    details = {}
    if kind == "node" or kind in DRIVER_KINDS:
        details["pause"] = round(rng.choice([0.0, rng.uniform(0, 10)]), 1)
    if kind in ("driver-stop", "driver-rival"):
        details["asleep"] = round(lease_seconds * rng.uniform(0.3, 3.0), 1)
    return Event(kind, round(rng.uniform(0, 5), 1), rng.random() < 0.3, details)
