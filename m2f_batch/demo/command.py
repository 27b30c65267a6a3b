"""``m2f-batch demo``: the main job on drawn scenes with the bundled model, and a contact sheet of what it found."""

import math
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from m2f_batch.config.loading import check_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.demo.scenes import MODEL, SHOW_SEED, STUFF_IDS, draw_scene
from m2f_batch.errors import Plain, RunError, UsageError
from m2f_batch.flow.job import segment
from m2f_batch.inputs.names.hidden import is_hidden
from m2f_batch.inputs.names.images import is_image_name
from m2f_batch.messages.events import Events
from m2f_batch.records import segment_of
from m2f_batch.result import Outcome
from m2f_batch.runs.directory import open_directory
from m2f_batch.runs.info import RunTotals
from m2f_batch.runs.reader import Run, open_run
from m2f_batch.storage.uris import expanded
from m2f_batch.vision.overlay import draw_overlay

COLUMNS, CELL = 6, 272
DRAWN = tuple(f"scene-{number:02d}.png" for number in range(24))
BROKEN = "broken.png"


class Demo(NamedTuple):
    """The end of a demo's run, and the picture of what it found."""

    outcome: Outcome[RunTotals]
    sheet: Path


def demo(directory: str, task: str, events: Events | None = None) -> Demo:
    """Draw scenes, segment them, and draw what was found. Nothing is printed but by ``events``.

    Raises UsageError, before anything is written, when DIR holds another run or cannot be a directory.
    """
    folder = Path(expanded(directory)).absolute()
    images = folder / "images"
    is_own = _is_own(folder, images)
    tree = {
        "input": {"uri": str(images)},
        "model": {"uri": str(MODEL), "task": task},
        "output": {"uri": str(folder), "images_per_file": 8, "overwrite": is_own},
    }
    config = check_config(SegmentConfig, tree)
    if open_directory(str(folder)).holds_run() and not is_own:
        raise UsageError(
            "holds a run that is not a demo's", field="DIR", value=Plain(directory), hint="give another directory"
        )
    try:
        if (other := _other_file(images)) is not None:
            problem = f"holds images/{other}, which the demo does not draw"
            raise UsageError(problem, field="DIR", value=Plain(directory), hint="give another directory")
        _draw_scenes(images)
    except OSError as error:
        raise UsageError(
            f"cannot be written ({error.strerror})", field="DIR", value=Plain(directory), hint="give another directory"
        ) from None
    outcome = segment(config, events=events)
    sheet = folder / "contact-sheet.png"
    _contact_sheet(open_run(str(folder))).save(sheet)
    return Demo(outcome, sheet)


def _other_file(folder: Path) -> str | None:
    """Return the name of a file that the demo would label and has not drawn, if the folder holds one."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    names = [path.name for path in found if path.is_dir() or is_image_name(path.name)]
    return next((name for name in names if name not in (*DRAWN, BROKEN) and not is_hidden(name)), None)


def _draw_scenes(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(DRAWN):
        Image.fromarray(draw_scene(SHOW_SEED + number).image).save(folder / name)
    # one in 25 is broken, as in life: it becomes a row with a reason
    (folder / BROKEN).write_bytes((folder / DRAWN[0]).read_bytes()[:5000])


def _is_own(folder: Path, images: Path) -> bool:
    """Return whether the run in the folder is an earlier demo, which may be replaced."""
    try:
        return open_run(str(folder)).info.input_uri == str(images)
    except (UsageError, RunError):
        return False


def _contact_sheet(run: Run) -> Image.Image:
    rows = [row for table in run.rows() for row in table.to_pylist() if row["status"] == "ok"]
    sheet = Image.new("RGB", (COLUMNS * CELL, math.ceil(len(rows) / COLUMNS) * CELL), "white")
    for number, row in enumerate(rows):
        segments = [segment_of(entry, (row["height"], row["width"])) for entry in row["segments"]]
        picture = Image.fromarray(draw_overlay(run.image(row), segments, STUFF_IDS))
        picture.thumbnail((CELL - 8, CELL - 8))
        y, x = divmod(number, COLUMNS)
        offset = ((CELL - picture.width) // 2, (CELL - picture.height) // 2)
        sheet.paste(picture, (x * CELL + offset[0], y * CELL + offset[1]))
    return sheet
