"""S3 faults of a schedule: its commands go through the tests' fault proxy, its judges do not."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from schedules import Schedule
from support.fault_proxy import FaultProxy

STALL_SECONDS = 3.0


@dataclass
class Way:
    """``variables`` lead a command to its storage; ``injected`` is filled at the end: faults by kind."""

    variables: dict[str, str]
    injected: dict[str, int] = field(default_factory=dict)


@contextlib.contextmanager
def faulty_way(schedule: Schedule, variables: Mapping[str, str]) -> Iterator[Way]:
    """The way to the S3 server of ``variables`` with the schedule's faults on it; on a disk there is nothing to do."""
    way = Way(dict(variables))
    if schedule.place != "s3":
        yield way
        return
    with FaultProxy(
        variables["AWS_ENDPOINT_URL"], seed=schedule.seed, rate=schedule.fault_rate, stall=STALL_SECONDS
    ) as proxy:
        way.variables["AWS_ENDPOINT_URL"] = proxy.url
        try:
            yield way
        finally:
            way.injected = proxy.counts()
