"""A family is a model architecture and its rules, told in one file of ``models/families``.

Such a file defines ``FAMILY``. The folder is listed, so no table names the files. A record and its file load neither
torch nor transformers: what computes is imported by the functions that need it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from m2f_batch.config.segment import Size, SlidingWindow, Task
from m2f_batch.errors import RunError, UsageError
from m2f_batch.members import members_of
from m2f_batch.models.label_sets import ALL_LABEL_SETS, LabelSet
from m2f_batch.models.preprocess_plan import PreprocessPlan, with_size
from m2f_batch.models.published.unsupported import why_not

if TYPE_CHECKING:
    from torch import Tensor, nn

    from m2f_batch.models.predictions import Prediction, Predictor
    from m2f_batch.models.training import Training

JsonMapping = Mapping[str, Any]
Shapes = Mapping[str, Sequence[int]]


class FastForward(Protocol):
    """A faster way to a family's predictions, with what its check at load needs (``vision/device/checked_model``)."""

    def build(self, model: "nn.Module") -> "Predictor | None":
        """Build the faster network of a model of ``transformers``, or return None where that is made otherwise."""
        ...

    def compared(
        self, model: "nn.Module", pixel_values: "Tensor"
    ) -> "Callable[[Predictor], Iterator[tuple[str, Tensor, Tensor]]]":
        """Run ``transformers``' modules on pixel values once, and keep what they gave.

        The answer takes the faster network, and yields each part of it by name, with what it gives for the inputs that
        ``transformers``' part had, and what that gave.
        """
        ...


@dataclass(frozen=True)
class AsPublished:
    """Weights of a family's authors run as this says, where transformers runs them otherwise.

    - ``are_these(config, name)`` tells them by config.json and the hub id that the user gave. What is tuned with
      transformers keeps to transformers.
    - ``pixels(plan)`` is their preprocessing for the checkpoint's own plan. ``predict`` runs the model.
    - ``note`` says so. ``unsure`` is said of others that know the labels of ``label_set``.
    """

    are_these: Callable[[JsonMapping, str], bool]
    pixels: Callable[[PreprocessPlan], PreprocessPlan]
    predict: Callable[["nn.Module", "Tensor"], "Prediction"]
    note: str
    label_set: str
    unsure: str


def _sized(config: JsonMapping, plan: PreprocessPlan, size: Size) -> PreprocessPlan:
    return with_size(plan, size)


@dataclass(frozen=True)
class Family:
    """The rules of one architecture. ``config`` is always a checked config.json, ``processor`` the image processor's.

    - ``name`` for people, ``model_type`` and ``aliases`` as in config.json, ``class_name`` of ``transformers``.
    - ``class_head`` is the tensor with one row per label, and one more where there is a ``no_object`` class.
      ``renamed_head`` is its name in weights that transformers saved with ``save_original_format=False``, if another.
    - ``tasks(config, trained, label_set)`` are the tasks it can do. ``trained`` is the task that name or config state.
    - ``config_problems(config)`` and ``weight_problems(config, shapes)`` yield what is wrong, a line each, and so does
      ``value_problems(files)`` of the numbers in whole safetensors files.
    - ``pixels(config, processor, task)`` is the checkpoint's own preprocessing. Raises UsageError for a processor that
      the family does not take.
    - ``paper(config, plan, label_set, task)`` is the preprocessing that was published for a label set (``config`` has
      the settled labels, and all names of the model in ``_name_or_path``, here, in ``pixels`` and in ``windows``), and
      ``sized(config, plan, size)`` that for a size of the user, by default ``with_size``. ``plan`` is the checkpoint's
      own, whose normalization they keep. Raises UsageError for a size at which the model cannot run.
    - ``refusals`` tell, of the tasks that it cannot do at all, why not.
    - ``size_problem(config, plan)`` tells why the model cannot see the canvases of a plan, or is None.
    - ``postprocess(config, trained, label_set, task)`` are the published values of the task's settings, those of keys
      of the config and the switches of its function of ``vision/postprocess``. What is absent does not apply.
    - ``load(directory, config, task)`` is the model of ``transformers`` in float32 on the CPU, and ``predict`` runs it.
    - ``windows(config, label_set, task)`` are the windows that its test slides over the resized image, or None where it
      sees the whole. Only a semantic task has any. The label set is None unless ``preprocess.size`` is ``paper``: those
      of its published test go with its published size. ``pixels`` and ``paper`` say what the image is resized to.
    - ``processor_arguments`` replace settings of a preprocessor_config.json for the processor of ``transformers``.
    - ``training`` tells how its models are trained, with ``new_processor`` as preprocessor_config.json of a new model.
    - ``new_queries`` is how many queries a new model has. ``is_default`` says that a training without ``model.uri``
      makes a model of this family. Exactly one family has it, and ``new_queries`` with it.
    - ``licenses`` are those of published weights, by the beginning of their name. ``base_license`` is that of what all
      its weights were made from. It holds whatever a card says.
    - ``deltas`` are published names (patterns of their last part) of weights that are only what is to be added to
      another model's, with the name of the whole ones.
    - ``published`` are the label sets of published weights, by patterns of hub ids as ``fnmatch`` has them, for those
      whose config.json names no labels. ``label_sets`` are those that are recognized by their names.
    - ``as_published`` tells which weights run otherwise than in transformers, and how. None where none do.
    """

    name: str
    model_type: str
    class_name: str
    class_head: str
    no_object: bool
    tasks: Callable[[JsonMapping, Task | None, LabelSet | None], Sequence[Task]]
    config_problems: Callable[[JsonMapping], Iterator[str]]
    weight_problems: Callable[[JsonMapping, Shapes], Iterator[str]]
    pixels: Callable[[JsonMapping, JsonMapping, Task], PreprocessPlan]
    paper: Callable[[JsonMapping, PreprocessPlan, LabelSet, Task], PreprocessPlan | None]
    postprocess: Callable[[JsonMapping, Task | None, LabelSet | None, Task], JsonMapping]
    load: Callable[[Path, JsonMapping, Task | None], "nn.Module"]
    predict: Callable[["nn.Module", "Tensor"], "Prediction"]
    renamed_head: str | None = None
    value_problems: Callable[[Sequence[Path]], Iterator[str]] | None = None
    sized: Callable[[JsonMapping, PreprocessPlan, Size], PreprocessPlan] = _sized
    size_problem: Callable[[JsonMapping, PreprocessPlan], str | None] | None = None
    windows: Callable[[JsonMapping, LabelSet | None, Task], SlidingWindow | None] | None = None
    fast: Callable[[], FastForward] | None = None
    training: Callable[[], "Training"] | None = None
    processor_arguments: JsonMapping = field(default_factory=dict)
    new_processor: JsonMapping | None = None
    new_queries: int | None = None
    is_default: bool = False
    aliases: tuple[str, ...] = ()
    refusals: Mapping[Task, str] = field(default_factory=dict)
    licenses: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, str] = field(default_factory=dict)
    label_sets: Sequence[LabelSet] = ALL_LABEL_SETS
    base_license: str | None = None
    deltas: Mapping[str, str] = field(default_factory=dict)
    as_published: AsPublished | None = None


@cache
def all_families() -> Mapping[str, Family]:
    """Return the families by model_type and alias. Raises RunError, naming the file, where one of them is not whole."""
    found: dict[str, Family] = {}
    members = members_of("m2f_batch.models.families", "FAMILY", Family)
    for name, family in members.items():
        for kind in (family.model_type, *family.aliases):
            if kind in found:
                others = f"which {found[kind].name} is for already"
                raise RunError(f"models/families/{name}.py: FAMILY is for model_type {kind!r}, {others}")
            found[kind] = family
    _check_default(members)
    return found


def _check_default(members: Mapping[str, Family]) -> None:
    """Raise RunError unless one family, by the name of its file, is that of a new model, and says all of it."""
    defaults = [name for name, family in members.items() if family.is_default]
    if len(defaults) != 1:
        files = ", ".join(f"{name}.py" for name in defaults) or "no file"
        raise RunError(f"models/families: exactly one FAMILY must have is_default=True, but {files} has it")
    if members[defaults[0]].new_queries is None:
        raise RunError(f"models/families/{defaults[0]}.py: FAMILY has is_default=True, but no new_queries")


def default_family() -> Family:
    """Return the family of a new model."""
    return next(family for family in all_families().values() if family.is_default)


def new_queries() -> int:
    """Return how many queries a new model has."""
    queries = default_family().new_queries
    assert queries is not None  # as all_families has checked
    return queries


def family_of(config: JsonMapping, name: str) -> Family:
    """Return the family of a config.json. Raises UsageError, which names the supported ones, when there is none."""
    kind, known = config.get("model_type"), all_families()
    family = known.get(kind) if isinstance(kind, str) else None
    if family is None:
        what = f"config.json of {name} says no model_type" if kind is None else f"{name} is a {kind!r} model"
        supported = ", ".join(map(repr, sorted(known)))
        raise UsageError(f"{what}; only {supported} models can be used", field="model.uri", hint=why_not(config))
    return family


def whole_weights(name: str) -> str | None:
    """Return the published weights to take in place of ``name``, if that names differences from another model's."""
    last = name.partition("@")[0].rstrip("/").rpartition("/")[2]
    for family in all_families().values():
        for pattern, whole in family.deltas.items():
            if found := re.fullmatch(pattern, last.casefold()):
                return found.expand(whole)
    return None


def check_trainable(family: Family) -> None:
    """Raise UsageError, which names the families that can be trained, when this one cannot."""
    if family.training is None:
        able = sorted({other.name for other in all_families().values() if other.training is not None})
        raise UsageError(
            f"{family.name} models cannot be trained yet",
            field="model.uri",
            allowed=f"models of {', '.join(able)}",
        )
