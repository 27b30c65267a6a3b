"""Forecasts what a run would take, from a few images (``segment --dry-run``). Writes nothing."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2f_batch.errors import RunError
from m2f_batch.flow.attempt.run_info import Job
from m2f_batch.flow.pipeline import Flow, labeled
from m2f_batch.flow.prediction import (
    Estimate,
    Machines,
    ProbedUnit,
    images_per_second,
    per_image,
    sample_evenly,
    seconds_per_image,
)
from m2f_batch.flow.unit.stages import prepare_unit
from m2f_batch.flow.unit.units import rows_of, split_unit
from m2f_batch.flow.watch.busy import cheaper_postprocessing, faster_model
from m2f_batch.inputs.columns import picked
from m2f_batch.messages.spoken import duration
from m2f_batch.ray_session.nodes import present
from m2f_batch.records import ImageRef
from m2f_batch.runs.directory import parquet_bytes
from m2f_batch.runs.plan import Unit, Units, default_images_per_file
from m2f_batch.runs.tally import Tally

# images, and images per unit. On CUDA whole units fill micro-batches, on CPU each image is measured alone.
PROBES = {"cpu": (24, 4), "cuda": (256, 32)}
PROBE_SECONDS = 60.0  # that are waited after the first result
WARM = 4  # with more units than this the first does not count, because it warms caches and finds the batch size


@dataclass(frozen=True)
class Whole:
    """The images per second that are expected, the stage that limits them, and bytes of the whole."""

    rate: Estimate
    limit: str
    output_bytes: Estimate
    read_bytes: Estimate


@dataclass(frozen=True)
class Forecast:
    """The results of a few images, and what ``listed`` images would take.

    Attributes:
        images: counts of the probe.
        seconds: of the probe, start-up included.
        reasons: why images failed, and how often.
        stage_seconds: per image, by stage.
        whole: None where no image could be labeled.
    """

    listed: int
    machines: Machines
    images: Tally
    seconds: float
    reasons: Counter[str]
    stage_seconds: Mapping[str, float]
    whole: Whole | None = None


@dataclass
class Probe:
    """The results of the probe."""

    units: list[ProbedUnit] = field(default_factory=list)
    rows: list[pa.Table] = field(default_factory=list)
    transient: list[str] = field(default_factory=list)

    def add(self, unit: pa.Table) -> None:
        """Take one labeled unit."""
        (facts,) = unit.drop_columns(["rows"]).to_pylist()
        if facts["transient"] is not None:
            self.transient.append(facts["transient"])
            return
        rows = rows_of(unit)
        counts = pc.struct_field(pc.list_flatten(rows["segments"]), "counts")
        masks = pc.sum(pc.binary_length(counts)).as_py() or 0
        self.rows.append(rows)
        self.units.append(ProbedUnit(rows.num_rows, dict(facts["seconds"]), masks, facts["bytes"]))


def probed(job: Job, flow: Flow) -> Forecast:
    """Label a few images, and return what the whole listing would take. Raises RunError when nothing came."""
    begun = time.monotonic()
    probe = _probe(job, flow)
    if not probe.units:
        raise RunError(f"no image of the probe could be fetched: {probe.transient[0]}; try again later")
    return forecast_of(job, probe, _machines(flow), time.monotonic() - begun)


def forecast_of(job: Job, probe: Probe, machines: Machines, seconds: float) -> Forecast:
    """Return the forecast by a probe that took ``seconds``."""
    table, tally = pa.concat_tables(probe.rows), Tally()
    tally.add(table)
    listed, units = job.listing.table.num_rows, probe.units
    reasons = tally.reasons + Counter(f"{reason} (a unit; tried again in a run)" for reason in probe.transient)
    counted = units[1:] if len(units) > WARM else units
    each = seconds_per_image(counted)
    known = Forecast(listed, machines, tally, seconds, reasons, each)
    if "forward" not in each or tally.ok == 0:
        return known
    rate, limit = images_per_second(counted, machines)
    size = per_image(units, lambda unit: unit.rle_bytes)
    per_file = job.config.output.images_per_file or default_images_per_file(listed)
    # the interval is that of the masks, because they are what differs between images
    scale = listed * file_bytes(table, per_file) / table.num_rows
    output = size.times(scale / size.value) if size.value else Estimate(scale, scale, scale)
    read = per_image(units, lambda unit: unit.read_bytes).times(listed)
    return replace(known, whole=Whole(rate, limit, output, read))


def forecast_lines(forecast: Forecast) -> Iterator[str]:
    """Yield the lines that a dry run prints."""
    tally, machines, whole = forecast.images, forecast.machines, forecast.whole
    yield (
        f"probe   {tally.images} images = {tally.ok} ok + {tally.error} error; {tally.segments:,} segments,"
        f" in {forecast.seconds:.0f} s with start-up"
    )
    for reason, count in forecast.reasons.most_common():
        yield f"        {count} x {reason}"
    if whole is None:
        yield "predict nothing: none of these images could be labeled"
        return
    yield "        seconds per image: " + ", ".join(
        f"{name} {value:.4f}" for name, value in forecast.stage_seconds.items()
    )
    yield f"predict {_shown(whole.rate, '{:.3g}')} images/s (90 % interval) on {machines.replicas} x {machines.device}"
    what, change = _limit(whole.limit, machines)
    yield f"        limited by {what}"
    yield f"        to change that: {change}"
    listed, rate = forecast.listed, whole.rate
    hours = Estimate(listed / rate.value / 3600, listed / rate.high / 3600, listed / rate.low / 3600)
    yield (
        f"        {_shown(hours, '{:.3g}')} hours for {listed:,} images,"
        f" or {duration(3600 * hours.value)}, after start-up"
    )
    sizes = (whole.output_bytes, whole.read_bytes)
    written, fetched = (_shown(estimate.times(1e-6), "{:,.3g}") for estimate in sizes)
    yield f"        {written} MB of output, {fetched} MB to read"
    yield "        a dry run: nothing was written"


def _probe(job: Job, flow: Flow) -> Probe:
    """Label evenly sampled images with one replica."""
    count, size = PROBES[flow.resources.device]
    table = job.listing.table
    rows = np.array(sample_evenly(table.num_rows, count), np.int64)
    texts = (picked(table[name], rows).to_pylist() for name in ("uri", "version"))
    refs = [ImageRef(uri, version) for uri, version in zip(*texts, strict=True)]
    units = Units.of(Unit(f"{first}", tuple(refs[first : first + size])) for first in range(0, len(refs), size))
    alone = replace(flow, resources=replace(flow.resources, actors=(1, 1)))
    prepare = _prepare_apart if flow.resources.device == "cpu" else prepare_unit
    probe, until = Probe(), None
    dataset = labeled(units, alone, None, prepare)
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in range(block.num_rows):
            probe.add(block.slice(row, 1))
        until = until or time.monotonic() + PROBE_SECONDS
        if time.monotonic() >= until:
            break
    return probe


def _prepare_apart(table: pa.Table, **options: Any) -> pa.Table:
    return split_unit(prepare_unit(table, **options))


def _machines(flow: Flow) -> Machines:
    """Return the machines of the run, with the most actors that it asks for."""
    nodes, most = present(), flow.resources.actors[1]
    planned = flow.resources
    cores = sum(node.get("CPU", 0.0) for node in nodes)
    return Machines(planned.device, most, planned.held(nodes, most).preparing, cores, flow.actor.threads)


def file_bytes(rows: pa.Table, images_per_file: int) -> int:
    """Return the bytes of these rows as a run would write them, in files of ``images_per_file``."""
    return sum(len(parquet_bytes(rows.slice(at, images_per_file))) for at in range(0, rows.num_rows, images_per_file))


def _limit(stage: str, machines: Machines) -> tuple[str, str]:
    """Name what limits the rate, and what to change."""
    match stage:
        case "forward":
            return "the forward pass", faster_model(machines.device)
        case "cores":
            return "the CPU cores, which all stages share", faster_model(machines.device)
        case "fetch":
            return "fetching", "more input.fetch_threads or CPUs, unless storage throttles"
        case "decode":
            return "decoding", "more CPUs per actor"
        case _:
            return "post-processing", cheaper_postprocessing(machines.device)


def _shown(estimate: Estimate, form: str) -> str:
    """Write an estimate as ``value (low to high)``."""
    value, low, high = (form.format(number) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"
