"""Reports a run as Ray's application metrics, which Prometheus scrapes from the node of the driver.

    name at the endpoint                              type     labels           meaning
    ray_m2f_batch_images_total                        counter  run, status      rows committed: ok, error, stranger
    ray_m2f_batch_errors_total                        counter  run, reason      error rows by stage/type
    ray_m2f_batch_segments_total                      counter  run              segments in committed rows
    ray_m2f_batch_units_total                         counter  run, status      units of work: committed, transient
    ray_m2f_batch_stage_seconds_total                 counter  run, stage       seconds that a stage took, all slots
    ray_m2f_batch_bytes_read_total                    counter  run              bytes of images read from storage
    ray_m2f_batch_retries_total                       counter  run              requests to storage that were repeated
    ray_m2f_batch_unit_deaths_total                   counter  run              processes that died while at a unit
    ray_m2f_batch_nodes_lost_total                    counter  run              nodes that died or were taken away
    ray_m2f_batch_images_remaining                    gauge    run              images that have no row yet
    ray_m2f_batch_busy_ratio                          gauge    run, stage       share of its slots that a stage uses
    ray_m2f_batch_replicas                            gauge    run              replicas at work, after a first unit
    ray_m2f_batch_waiting_seconds                     gauge    run              without a first unit so far; then 0
    ray_m2f_batch_eta_timestamp_seconds               gauge    run              when it ends at its rate, Unix time
    ray_m2f_batch_deadline_timestamp_seconds          gauge    run              ``run.deadline``, Unix time
    ray_m2f_batch_last_success_timestamp_seconds      gauge    run              when ``_SUCCESS`` was written, Unix time

A stranger is an error row that ``input.max_error_fraction`` leaves out: it is no image, and its name has no extension.
``run`` is OUTPUT, printable ASCII of at most 80 characters. Ray adds the prefix and labels of its own (node, session,
``WorkerId``): sum over them. Counters belong to one attempt. They begin at 0 with the driver, and a series appears with
its first increment. Ray forgets a gauge 20 seconds after it was last set, so an alarm on the last success takes
``last_over_time``.

The endpoint is that of the dashboard agent, which is there on every node whose Ray is ``ray[default]`` (``ray start
--metrics-export-port``), with or without a dashboard. A plain ``ray[data]`` has none: then all this does nothing.
"""

import hashlib
import logging
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from m2f_batch.flow.unit.units import DoneUnit
from m2f_batch.messages.masking import redact

PREFIX = "m2f_batch_"
COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "images_total": ("Images with a committed row, by status.", ("status",)),
    "errors_total": ("Images whose row is an error, by stage/type.", ("reason",)),
    "segments_total": ("Segments in committed rows.", ()),
    "units_total": ("Units of work that came back: committed, or put off by a passing fault.", ("status",)),
    "stage_seconds_total": ("Seconds by stage, summed over all its places.", ("stage",)),
    "bytes_read_total": ("Bytes of images read from storage.", ()),
    "retries_total": ("Requests to storage that were repeated.", ()),
    "unit_deaths_total": ("Processes that died while they worked on a unit.", ()),
    "nodes_lost_total": ("Nodes that died or were taken away; not those let go for idleness.", ()),
}
GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "images_remaining": ("Images that have no row yet.", ()),
    "busy_ratio": ("Share of its places that a stage keeps busy.", ("stage",)),
    "replicas": ("Replicas at work that have delivered a unit.", ()),
    "waiting_seconds": ("Seconds that a run has waited for its first unit; 0 after it.", ()),
    "eta_timestamp_seconds": ("Unix time at which the run ends at its rate so far.", ()),
    "deadline_timestamp_seconds": ("Unix time at which the run should be done, as run.deadline says.", ()),
    "last_success_timestamp_seconds": ("Unix time at which a run over this OUTPUT was verified.", ()),
}
MAX_LABEL = 80  # characters
MAX_REASONS = 100  # distinct ones in a run, and any later one is counted as "other"


class Metrics:
    """Metrics of one attempt, emitted by the driver. Without a Ray session it does nothing."""

    def __init__(self, output_uri: str) -> None:
        self._run = {"run": label(output_uri)}
        self._reasons: set[str] = set()
        self._seen = {"unit_deaths_total": 0, "nodes_lost_total": 0}
        self._instruments = _instruments()

    def add(self, unit: DoneUnit) -> None:
        """Count one unit that came back, by the fields of ``units.DONE_SCHEMA``."""
        is_whole = unit["transient"] is None
        self._count("units_total", 1, status="committed" if is_whole else "transient")
        for stage, seconds in dict(unit.get("seconds") or ()).items():
            self._count("stage_seconds_total", seconds, stage=stage)
        self._count("bytes_read_total", unit.get("bytes"))
        self._count("retries_total", unit.get("retries"))
        if not is_whole:
            return
        self._count("images_total", unit["ok"], status="ok")
        strangers = unit.get("strangers") or 0
        self._count("images_total", unit["error"] - strangers, status="error")
        self._count("images_total", strangers, status="stranger")
        self._count("segments_total", unit["segments"])
        for reason, count in dict(unit["reasons"] or ()).items():
            self._count("errors_total", count, reason=self._bounded(reason))

    def set_state(self, remaining: int, shares: Mapping[str, float], replicas: int, *, deaths: int = 0) -> None:
        """The state of this moment, to be said every few seconds, once OUTPUT is open.

        ``shares`` are busy shares by stage, ``deaths`` the processes that have died at a unit in this attempt so far.
        """
        self._record("images_remaining", remaining)
        self._record("replicas", replicas)
        for stage, share in shares.items():
            self._record("busy_ratio", share, stage=stage)
        self._count_up_to("unit_deaths_total", deaths)

    def set_times(self, waiting: float, eta: float | None, deadline: float | None) -> None:
        """Set the seconds of waiting for the first unit, and when the run will end and should (Unix times).

        Call it every few seconds from the start on. A time is None where it is not known or not asked for.
        """
        self._record("waiting_seconds", waiting)
        for name, at in (("eta_timestamp_seconds", eta), ("deadline_timestamp_seconds", deadline)):
            if at is not None:
                self._record(name, at)

    def set_nodes_lost(self, nodes: int) -> None:
        """Count the nodes that this attempt has lost so far."""
        self._count_up_to("nodes_lost_total", nodes)

    def succeeded(self, at: float | None = None) -> None:
        """Set when the run was verified and ``_SUCCESS`` written: now, or a Unix time."""
        self._record("last_success_timestamp_seconds", time.time() if at is None else at)

    def _count_up_to(self, name: str, total: int) -> None:
        self._count(name, total - self._seen[name])
        self._seen[name] = max(total, self._seen[name])

    def _count(self, name: str, value: float | None, **tags: str) -> None:
        if value and value > 0:  # Ray refuses 0
            self._record(name, value, **tags)

    def _record(self, name: str, value: float, **tags: str) -> None:
        """Call Ray here alone, because numbers on a dashboard must never end a run."""
        instrument = self._instruments.get(name)
        if instrument is None:
            return
        try:
            record = instrument.inc if name in COUNTERS else instrument.set
            record(float(value), tags=self._run | {key: label(text) for key, text in tags.items()})
        except Exception:
            logging.getLogger(__name__).warning("metrics stop here, the run goes on", exc_info=True)
            self._instruments = {}

    def _bounded(self, reason: str) -> str:
        if len(self._reasons) < MAX_REASONS:
            self._reasons.add(reason)
        return reason if reason in self._reasons else "other"


@lru_cache(maxsize=1024)
def label(text: str) -> str:
    """Return a text as a label's value: without keys, at most ``MAX_LABEL`` characters of printable ASCII.

    >>> label("s3://me:secret@bucket/übung/")
    's3://***:***@bucket/\\\\xfcbung'
    """
    text = redact(text).rstrip("/")
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text).encode("ascii", "backslashreplace").decode()
    if len(plain) <= MAX_LABEL:
        return plain
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{digest}...{plain[len(digest) + 3 - MAX_LABEL :]}"


def _instruments() -> dict[str, Any]:
    """Return Ray's counters and gauges by our short name, none without a session."""
    import ray
    from ray.util.metrics import Counter, Gauge

    if not ray.is_initialized():
        return {}
    kinds = ((Counter, COUNTERS), (Gauge, GAUGES))
    return {
        name: kind(PREFIX + name, description=text, tag_keys=("run", *keys))
        for kind, table in kinds
        for name, (text, keys) in table.items()
    }
