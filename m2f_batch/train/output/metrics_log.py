"""Writes the metrics log of a training: JSON lines, TensorBoard events, and curves as a picture.

    OUTPUT/metrics.jsonl          one object per logged step: {"step": ..., "kind": "train" | "validation", ...}
    OUTPUT/tensorboard/           the same for TensorBoard
    OUTPUT/curves.png             losses, learning rate and validation metrics, drawn at the end

A resumed training drops the lines after the checkpoint that it goes on from, so that no step comes twice.
"""

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from m2f_batch.runs.held_folder import HeldFolder
from m2f_batch.storage.json_text import JsonObject
from m2f_batch.storage.retries import retry_write
from m2f_batch.storage.store import NotFound
from m2f_batch.train.layout import CURVES, EVENTS, METRICS

FLUSH_SECONDS = 30.0  # between writes of the lines, for those who watch
CHIEF = frozenset({"AP", "AP50", "AP75", "PQ", "PQ_th", "PQ_st", "mIoU"})  # figures of validation that are drawn


@dataclass(frozen=True)
class Line:
    """One line of the log: the step, its ``kind`` (train, validation), and the figures, None where not finite."""

    step: int
    kind: str
    values: Mapping[str, float | None]

    @property
    def tree(self) -> JsonObject:
        """The line as JSON."""
        return {"step": self.step, "kind": self.kind, **self.values}

    @property
    def figures(self) -> dict[str, float]:
        """The figures that are there, without the time."""
        return {name: value for name, value in self.values.items() if value is not None and name != "time"}


class MetricsLog:
    """The lines of a training up to ``step``. ``flush`` and ``flush_events`` write them to OUTPUT."""

    def __init__(self, place: HeldFolder, step: int) -> None:
        self._place = place
        self._flushed = monotonic()
        self.lines = [line for line in read_lines(place) if line.step <= step] if step else []

    def note(self, step: int, kind: str, values: Mapping[str, float | None]) -> None:
        """Add a line. Numbers that are not finite become null, because JSON has no word for them."""
        self.lines.append(Line(step, kind, {name: _finite(value) for name, value in values.items()}))

    def flush(self) -> None:
        """Write all lines. Raises Fenced when another run has taken over."""
        self._flushed = monotonic()
        data = "".join(json.dumps(line.tree) + "\n" for line in [*self.lines]).encode()
        retry_write(lambda: self._place.write(METRICS, data))

    def is_due(self) -> bool:
        """Return whether the lines were not written for a while."""
        return monotonic() - self._flushed > FLUSH_SECONDS

    def finish(self) -> None:
        """Write the curves, and all else once more."""
        self.flush()
        retry_write(lambda: self._place.write(CURVES, curves_png(self.lines)))
        self.flush_events()

    def flush_events(self) -> None:
        """Write the TensorBoard events of the whole run, however often it was resumed, in place of the older ones."""
        old = retry_write(lambda: [entry.uri for entry in self._place.store.list(f"{self._place.path(EVENTS)}/")])
        events = {f"{EVENTS}/{name}": data for name, data in events_of([*self.lines])}
        for name, data in events.items():
            retry_write(partial(self._place.write, name, data))
        retry_write(lambda: self._place.delete({*old} - {*map(self._place.path, events)}))


def read_lines(place: HeldFolder) -> list[Line]:
    """Read the lines written so far, none where there is no file."""
    try:
        data = retry_write(lambda: place.store.read(place.path(METRICS)))
    except NotFound:
        return []
    return lines_of(data)


def lines_of(data: bytes) -> list[Line]:
    """Parse the lines of metrics.jsonl. Raises ValueError or LookupError for other data."""
    trees = map(json.loads, data.decode().splitlines())
    return [Line(tree.pop("step"), tree.pop("kind"), tree) for tree in trees]


def events_of(lines: Iterable[Line]) -> list[tuple[str, bytes]]:
    """Make TensorBoard's event files, (name, bytes), of the lines: a scalar per number, named ``kind/key``."""
    from tensorboardX import SummaryWriter

    with TemporaryDirectory(prefix="m2f-batch-") as folder:
        with SummaryWriter(folder, write_to_disk=True) as writer:
            for line in lines:
                for name, value in line.figures.items():
                    writer.add_scalar(f"{line.kind}/{name}", value, line.step, walltime=line.values.get("time"))
        return [(file.name, file.read_bytes()) for file in sorted(Path(folder).iterdir())]


def curves_png(lines: Sequence[Line]) -> bytes:
    """Draw the curves: losses on top, the chief figures of validation and the learning rate below."""
    from matplotlib.figure import Figure

    train, validation = ([line for line in lines if line.kind == kind] for kind in ("train", "validation"))
    figure = Figure(figsize=(10, 9), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1])
    groups = ((axes[0], train, "loss"), (axes[1], validation, ""), (axes[2], train, "learning_rate"))
    for axis, chosen, prefix in groups:
        given = dict.fromkeys(key for line in chosen for key in line.figures if key.startswith(prefix))
        names = [name for name in given if name in CHIEF] if chosen is validation else [*given]
        for name in names:
            points = [(line.step, line.figures[name]) for line in chosen if name in line.figures]
            axis.plot(*zip(*points, strict=True), label=name, linewidth=1, marker="." if len(points) < 40 else None)
        if names:
            axis.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))  # beside the curves, not over them
        axis.grid(alpha=0.3)
    if any(line.values.get("loss") for line in train):
        axes[0].set_yscale("log")
    for axis, title in zip(axes, ("training loss", "validation", "learning rate"), strict=True):
        axis.set_title(title, fontsize="medium", loc="left")
    axes[-1].set_xlabel("step")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    return picture.getvalue()


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
