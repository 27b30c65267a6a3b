"""Reads run.json as typed values.

The writer of a run keeps the tree of run.json as it is, see ``flow/attempt/run_info.py``. Keys that are not known here
are left alone, because a newer release may have written them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from m2f_batch.config.loading import check_config
from m2f_batch.config.segment import InputConfig, Task
from m2f_batch.errors import Plain, RunError
from m2f_batch.models.label_sets import Category
from m2f_batch.runs.directory import RunDirectory

Tree = Mapping[str, Any]
# what the keys of run.json hold
KEYS: Mapping[str, str] = {
    "run_id": "Random name of the run. It stays when the run goes on.",
    "task": "`instance`, `semantic` or `panoptic`.",
    "model": "The model: `uri`, `revision` (commit of a hub id, else null), `fingerprint` of its files, and `license`.",
    "config": "The config of the last attempt, with all defaults and whole places.",
    "preprocess": "What was settled of `preprocess`: sizes, normalization, windows.",
    "postprocess": "What was settled of `postprocess`, with the values for the task.",
    "categories": "List of labels: `id`, `name`, `isthing`, `dataset_id` (number in the label set's own files).",
    "stuff_ids_from": "What said which labels are stuff: the config, the checkpoint or its label set.",
    "fingerprint": "Hash of all that decides a label. Rows of two fingerprints are never mixed.",
    "fingerprint_of": "What the fingerprint is the hash of.",
    "decoder": "Version of the rules by which bytes become pixels.",
    "versions": "Versions of Python and of the packages that compute.",
    "plan": "Name of the plan that the files follow. A new plan is made when INPUT has changed.",
    "images": "Counts of images: `listed` = `ok` + `error` + `remaining` at all times; `skipped` files are no images, "
    "and `duplicates` are listed once.",
    "segments": "Count of segments in all rows.",
    "errors": "Counts of error rows, by `stage/type`.",
    "strangers": "Count of the errors that `input.max_error_fraction` leaves out: files without extension that are no "
    "image.",
    "started_at": "When the run began, in UTC.",
    "deadline_at": "When the run should be done, as `run.deadline` says, else null.",
    "finished_at": "When the run was verified, else null.",
    "seconds": "Seconds of the last attempt.",
    "images_per_second": "Rate of the last attempt.",
    "stages": "How busy each stage of the last attempt was: seconds, and share of its slots.",
    "retries": "Requests to storage that were repeated in the last attempt.",
    "forward": "Replicas whose forward pass is ours (`fast`) and transformers' own (`slow`), and `why` those are.",
    "attempts": "Commands that have worked on the run.",
    "token": "Number of the lease under which this file was written.",
}


@dataclass(frozen=True)
class ModelInfo:
    """The model of a run. ``revision`` is None for a local directory."""

    uri: str
    revision: str | None
    license: str | None


@dataclass(frozen=True)
class ImageCounts:
    """Counts of the images of a run.

    Attributes:
        listed: images of the last listing, the sum of the next three.
        ok: images that were labeled.
        error: images that failed.
        remaining: images that have no row yet.
        skipped: files that are no images by their names, and were not listed.
        duplicates: images that were named again.
    """

    listed: int
    ok: int
    error: int
    remaining: int
    skipped: int
    duplicates: int


@dataclass(frozen=True)
class RunTotals:
    """The counts of a run.

    Attributes:
        images: counts of images.
        segments: the number of segments in all rows.
        errors: how many images failed, by reason, such as ``decode/Truncated``.
        seconds: of the last attempt.
        images_per_second: of the last attempt.
    """

    images: ImageCounts
    segments: int
    errors: Mapping[str, int]
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class RunInfo:
    """The content of run.json.

    ``config`` is the resolved config of the last attempt. It holds ``input_uri``, which is INPUT, and ``input_root``,
    the folder of the bare file names of a COCO JSON. ``fingerprint_of`` are the facts that decide a label.
    ``preprocess`` and ``postprocess`` are the settled arguments. ``seconds`` and ``images_per_second`` are those of the
    last attempt. The fields from ``fingerprint`` on are missing in the run.json of some releases.
    """

    run_id: str
    task: Task
    model: ModelInfo
    config: Tree
    input_uri: str
    input_root: str | None
    categories: tuple[Category, ...]
    images: ImageCounts
    segments: int
    errors: Mapping[str, int]
    seconds: float
    images_per_second: float
    started_at: str
    finished_at: str | None
    fingerprint: str | None
    fingerprint_of: Tree
    preprocess: Tree
    postprocess: Tree
    versions: Tree
    plan: str | None
    attempts: int
    retries: int
    strangers: int
    forward: Tree | None
    deadline_at: str | None

    @property
    def max_pixels(self) -> int:
        """The most pixels of an image that is decoded."""
        known = {key: value for key, value in self.config["input"].items() if key in ("uri", "max_pixels")}
        return check_config(InputConfig, known).max_pixels

    @property
    def names(self) -> dict[int, str]:
        """The names of the labels by id."""
        return {category.id: category.name for category in self.categories}


def read_info(run: RunDirectory) -> RunInfo:
    """Read the run.json of a run. Raises RunError when it is none."""
    tree = run.read_info()
    try:
        return info_of(tree)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise RunError("is not the run.json of a run", field="RUN", value=Plain(run.path("run.json"))) from None


def info_of(tree: Tree) -> RunInfo:
    """Return the tree of a run.json as typed values.

    Raises LookupError, TypeError, ValueError or AttributeError for a tree without what the contract promises.
    """
    model = tree["model"]
    return RunInfo(
        run_id=tree["run_id"],
        task=tree["task"],
        model=ModelInfo(model["uri"], model.get("revision"), model.get("license")),
        config=tree["config"],
        input_uri=tree["config"]["input"]["uri"],
        input_root=tree["config"]["input"].get("root"),
        categories=tuple(_category(label) for label in tree["categories"]),
        images=_counts(tree["images"]),
        segments=tree["segments"],
        errors=dict(tree["errors"]),
        seconds=tree["seconds"],
        images_per_second=tree["images_per_second"],
        started_at=tree["started_at"],
        finished_at=tree["finished_at"],
        fingerprint=tree.get("fingerprint"),
        fingerprint_of=tree.get("fingerprint_of") or {},
        preprocess=tree.get("preprocess") or {},
        postprocess=tree.get("postprocess") or {},
        versions=tree.get("versions") or {},
        plan=tree.get("plan"),
        attempts=tree.get("attempts", 1),
        retries=tree.get("retries") or 0,
        strangers=tree.get("strangers", 0),
        forward=tree.get("forward"),
        deadline_at=tree.get("deadline_at"),
    )


def totals_of(tree: Tree) -> RunTotals:
    """Return the counts that the tree of a run.json holds."""
    counts = _counts(tree["images"])
    return RunTotals(counts, tree["segments"], dict(tree["errors"]), tree["seconds"], tree["images_per_second"])


def _category(label: Tree) -> Category:
    return Category(label["id"], label["name"], label["isthing"], label.get("dataset_id", label["id"] + 1))


def _counts(counts: Tree) -> ImageCounts:
    return ImageCounts(
        counts["listed"],
        counts["ok"],
        counts["error"],
        counts["remaining"],
        counts.get("skipped", 0),
        counts.get("duplicates", 0),
    )
