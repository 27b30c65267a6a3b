"""Settles all that decides a label from checkpoint and config, and hashes it to the fingerprint. Imports no torch."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, TypedDict, cast

from m2f_batch.config.segment import (
    POSTPROCESS_KEYS,
    ExactSize,
    ModelConfig,
    PostprocessConfig,
    Precision,
    PreprocessConfig,
    SlidingWindow,
    Task,
)
from m2f_batch.errors import UsageError
from m2f_batch.models.checkpoint import Checkpoint, choose_task
from m2f_batch.models.family import JsonMapping
from m2f_batch.models.label_sets import (
    Category,
    LabelSet,
    StuffSource,
    are_numbers,
    categories_of,
    find_stuff_ids,
)
from m2f_batch.models.preprocess_plan import PreprocessPlan, with_normalization
from m2f_batch.version import VERSION
from m2f_batch.vision.cuts.view import Cut
from m2f_batch.vision.cuts.whole import WHOLE
from m2f_batch.vision.cuts.windows import Windows
from m2f_batch.vision.decode.image import DECODE_POLICY_VERSION

if TYPE_CHECKING:  # it needs torch
    from m2f_batch.vision.masks.frame import Upsampling

# One for each way from image to segments that settings choose: bump the one whose labels change, and runs that do not
# use it go on. 3: preprocess.size paper is rounded as detectron2 does.
SEMANTICS_VERSION, PAPER_SIZE_VERSION = "2", "3"


class PostprocessSettings(TypedDict, total=False):
    """Keyword arguments of the task's function of ``vision/postprocess``, those that apply."""

    score_threshold: float
    mask_threshold: float
    top_k: int
    overlap_threshold: float
    stuff_ids: frozenset[int]
    upsampling: "Upsampling"
    keep_empty: bool
    keep_unsure: bool
    masks_first: bool


@dataclass(frozen=True)
class Labeling:
    """The settled semantics of a run."""

    task: Task
    preprocess: PreprocessPlan
    postprocess: PostprocessSettings
    precision: Precision
    compile: bool
    categories: tuple[Category, ...]
    stuff_ids_from: StuffSource
    notes: tuple[str, ...] = ()  # what a user should hear before the run
    own_normalization: bool = False  # the checkpoint's image processor does not decide it
    cut: Cut = WHOLE
    assumed_labels: str | None = None  # the label set whose names replace those that config.json does not give
    as_published: bool = False  # the model runs as its authors published it, where transformers runs it otherwise

    def doubt(self) -> str | None:
        """Return the reason to doubt the pixel values, where the image processor of the checkpoint decides them."""
        return None if self.own_normalization else self.preprocess.doubt()

    def facts(self, model_fingerprint: str, max_pixels: int, cpu_threads: int | None) -> dict[str, object]:
        """The facts that decide a label, as JSON has them. ``cpu_threads`` is None on other devices."""
        preprocess = self.preprocess.facts()
        is_as_detectron2 = preprocess.get("rounding") == "detectron2"
        if is_as_detectron2:  # said by the version, as ever
            del preprocess["rounding"]
        facts = {
            "model": model_fingerprint,
            "task": self.task,
            "preprocess": preprocess,
            "postprocess": {k: sorted(v) if isinstance(v, frozenset) else v for k, v in self.postprocess.items()},
            "precision": self.precision,
            "compile": self.compile,
            "cpu_threads": cpu_threads,
            "decode_policy": [DECODE_POLICY_VERSION, max_pixels],
            "semantics": PAPER_SIZE_VERSION if is_as_detectron2 else SEMANTICS_VERSION,
        }
        if self.assumed_labels:
            facts["labels"] = self.assumed_labels
        if self.as_published:
            facts["as_published"] = True
        return dict(json.loads(json.dumps({**facts, **self.cut.facts()}, default=str)))


def fingerprint_of(facts: Mapping[str, object]) -> str:
    """Hash of what decides a label."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def settle(
    checkpoint: Checkpoint, model: ModelConfig, preprocess: PreprocessConfig, postprocess: PostprocessConfig
) -> Labeling:
    """Settle what a run will do. Raises UsageError for a task the model cannot do and for keys that do not apply."""
    task = choose_task(checkpoint, model.task)
    _refuse_inapplicable(postprocess, task)
    stuff_ids, source, notes = _stuff(checkpoint, postprocess.stuff_ids, task)
    arguments = dict(checkpoint.published_postprocess(task))
    arguments |= {
        key: value
        for key in POSTPROCESS_KEYS[task] & arguments.keys()
        if (value := getattr(postprocess, key)) is not None
    }
    if "stuff_ids" in POSTPROCESS_KEYS[task]:
        arguments["stuff_ids"] = stuff_ids
    plan = _preprocess_plan(checkpoint, preprocess, task)
    return Labeling(
        cut=_cut(checkpoint, preprocess, task, has_switches=bool(arguments)),
        task=task,
        preprocess=plan,
        postprocess=cast("PostprocessSettings", arguments),
        precision=model.precision,
        compile=model.compile,
        categories=categories_of(checkpoint.id2label, stuff_ids, checkpoint.label_set),
        stuff_ids_from=source,
        notes=(*_published_notes(checkpoint), *_label_notes(checkpoint), *notes),
        own_normalization=preprocess.normalize is not None or checkpoint.as_published is not None,
        assumed_labels=checkpoint.assumed_labels,
        as_published=checkpoint.as_published is not None,
    )


def _published_notes(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield what a user should hear of weights that transformers runs otherwise than their authors."""
    known, labels = checkpoint.family.published.otherwise, checkpoint.label_set
    if checkpoint.as_published is not None:
        yield checkpoint.as_published.note
    elif known is not None and labels is not None and labels.name == known.label_set:
        yield known.unsure


def _label_notes(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield what a user should hear of labels that config.json does not name."""
    if checkpoint.assumed_labels:
        yield f"config.json names no labels; those of {checkpoint.assumed_labels}, of the published weights, are taken"
    elif checkpoint.family.published.labels and are_numbers(checkpoint.id2label):
        yield "config.json names no labels, so they are LABEL_0, LABEL_1 and so on; write their names as its id2label"


def _stuff(
    checkpoint: Checkpoint, configured: frozenset[int] | None, task: Task
) -> tuple[frozenset[int], StuffSource, tuple[str, ...]]:
    """Settle which labels are stuff, who says so, and what a user should hear of it.

    Ids that are no labels are a mistake in ``postprocess.stuff_ids``. In config.json they have outlived the labels of
    an earlier training: panoptic, which merges by them, is refused (UsageError), and instance, which only leaves stuff
    out, goes without them.
    """
    stuff_ids, source = find_stuff_ids(configured, checkpoint.stuff_ids, checkpoint.label_set)
    unknown = sorted(i for i in stuff_ids if i not in checkpoint.id2label)
    allowed = f"0 to {len(checkpoint.id2label) - 1}"
    if unknown and source == "config":
        raise UsageError(
            f"are no labels of {checkpoint.name}", field="postprocess.stuff_ids", value=unknown, allowed=allowed
        )
    outlived = f"label_ids_to_fuse in its config.json names {unknown}, which are no labels of it ({allowed})"
    if unknown and task == "panoptic":
        raise UsageError(
            f"is not given, and so {checkpoint.name} says what is stuff, but {outlived}",
            field="postprocess.stuff_ids",
            hint=("give the ids of the labels that are, e.g. --set 'postprocess.stuff_ids=[0]', or [] if none is"),
        )
    known = stuff_ids - set(unknown)
    notes = []
    if unknown and task == "instance":
        rest = f"; {sorted(known)} of it stay stuff, which instance leaves out" if known else ""
        notes.append(f"{outlived}, and so they are passed over{rest}; postprocess.stuff_ids says it otherwise")
    if task == "instance" and len(known) == len(checkpoint.id2label):
        notes.append("every label is stuff, which instance leaves out: nothing is found; set postprocess.stuff_ids")
    return known, source, tuple(notes)


def _preprocess_plan(checkpoint: Checkpoint, preprocess: PreprocessConfig, task: Task) -> PreprocessPlan:
    plan = _sized_plan(checkpoint, preprocess, task)
    reason = checkpoint.family.pixels.size_problem(checkpoint.config, plan)
    if reason is not None:
        raise UsageError(f"{plan.describe()}: {reason}", field="preprocess.size")
    return plan if preprocess.normalize is None else with_normalization(plan, preprocess.normalize)


def _pixels(checkpoint: Checkpoint, processor: JsonMapping, task: Task) -> PreprocessPlan:
    plan = checkpoint.family.pixels.own(checkpoint.named_config, processor, task)
    return plan if checkpoint.as_published is None else checkpoint.as_published.pixels(plan)


def _sized_plan(checkpoint: Checkpoint, preprocess: PreprocessConfig, task: Task) -> PreprocessPlan:
    size, family, labels = preprocess.size, checkpoint.family, checkpoint.label_set
    if size == "checkpoint":
        return _pixels(checkpoint, checkpoint.processor, task)
    # the checkpoint's own size may be one that means nothing: ours replaces it before it is read
    any_size = {**checkpoint.processor, "size": {"height": 1, "width": 1}, "do_resize": True}
    plan = _pixels(checkpoint, any_size, task)
    if size == "paper":
        published = None if labels is None else family.pixels.paper(checkpoint.named_config, plan, labels, task)
        if published is None:
            unknown = f"the {len(checkpoint.id2label)} labels of {checkpoint.name} are none"
            raise UsageError(
                f"'paper' needs a known label set, and {unknown}"
                if labels is None
                else f"no test of such a {family.name} on {labels.name} is known",
                field="preprocess.size",
                allowed="checkpoint, {shortest_edge, longest_edge}, {height, width}",
            )
        return published
    return family.pixels.sized(checkpoint.config, plan, size)


def _cut(checkpoint: Checkpoint, preprocess: PreprocessConfig, task: Task, *, has_switches: bool) -> Cut:
    """The windows of the config, else those of the family's published test, else the whole image at once.

    A family whose windows need no label set cannot see an image in another way, and takes no others.
    """
    given, always = preprocess.window, published_windows(checkpoint, None, task)
    if given is not None and task != "semantic":
        raise UsageError(
            f"does not apply to task {task}, whose objects would be cut",
            field="preprocess.window",
            value=given.model_dump(),
            allowed="windows with task semantic",
        )
    if given is not None and (has_switches or (always is not None and given != always)):
        raise UsageError(
            f"is not how {checkpoint.family.name} models see an image",
            field="preprocess.window",
            value=given.model_dump(),
            allowed="null" if always is None else f"{always.model_dump()}, which they have when it is not set",
        )
    if given is not None:
        _check_window(checkpoint, preprocess, task, given)
    label_set = checkpoint.label_set if preprocess.size == "paper" else None
    window = given or published_windows(checkpoint, label_set, task)
    return WHOLE if window is None else Windows(window.size, window.stride)


def _check_window(checkpoint: Checkpoint, preprocess: PreprocessConfig, task: Task, given: SlidingWindow) -> None:
    """Raise UsageError for windows that the model cannot see."""
    square = ExactSize(height=given.size, width=given.size)
    plan = replace(_sized_plan(checkpoint, preprocess, task), size=square)
    reason = checkpoint.family.pixels.size_problem(checkpoint.config, plan)
    if reason is not None:
        raise UsageError(f"is not allowed: {reason}", field="preprocess.window.size", value=given.size)


def published_windows(checkpoint: Checkpoint, label_set: LabelSet | None, task: Task) -> SlidingWindow | None:
    """The windows of the family's published test for a label set, or, without one, those that it always has."""
    windows = checkpoint.family.pixels.windows
    return None if windows is None else windows(checkpoint.named_config, label_set, task)


def _refuse_inapplicable(postprocess: PostprocessConfig, task: Task) -> None:
    given = {key: getattr(postprocess, key) for key in sorted(postprocess.model_fields_set - POSTPROCESS_KEYS[task])}
    problem, allowed = f"does not apply to task {task}", ", ".join(sorted(POSTPROCESS_KEYS[task])) or "none"
    wrong = [
        UsageError(problem, field=f"postprocess.{key}", value=value, allowed=allowed)
        for key, value in given.items()
        if value is not None
    ]
    if wrong:
        raise UsageError.of_all(wrong)


def installed_versions() -> dict[str, str]:
    """Versions, on this machine, of all that can change a pixel or a byte of a row."""
    required = ("torch", "torchvision", "transformers", "pillow", "numpy", "pycocotools", "pyarrow", "ray")
    versions = {"m2f-batch": VERSION}
    for name in (*required, "pillow-heif", "timm"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
