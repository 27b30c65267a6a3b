"""A family is a model architecture and its rules, told in one file of ``models/families``.

Such a file defines ``FAMILY``. The folder is listed, so no table names the files. A record and its file load neither
torch nor transformers: what computes is imported by the functions that need it. What is not said has a default, so that
a file says what is special about its family.
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
class Network:
    """The functions that compute the predictions of a family, which need torch.

    - ``load(directory, config, task)`` is the model of ``transformers`` in float32 on the CPU, and ``predict`` runs it.
    - ``fast`` is a faster way to the same, if there is one.
    - ``predict_published`` runs weights of the family's authors where ``Published.otherwise`` is of them.
    """

    load: "Callable[[Path, JsonMapping, Task | None], nn.Module]"
    predict: "Callable[[nn.Module, Tensor], Prediction]"
    fast: FastForward | None = None
    predict_published: "Callable[[nn.Module, Tensor], Prediction] | None" = None


@dataclass(frozen=True)
class ClassHead:
    """The tensor with one row per label, and one more where there is a ``no_object`` class.

    ``renamed`` is its name in weights that transformers saved with ``save_original_format=False``, if another.
    """

    tensor: str
    no_object: bool = False
    renamed: str | None = None

    def labels(self, shapes: Shapes) -> int | None:
        """Count the labels that weights know, or return None where they have no such tensor."""
        shape = shapes.get(self.tensor) or shapes.get(self.renamed or "")
        return shape[0] - self.no_object if shape else None


def _no_settings(config: JsonMapping, trained: Task | None, label_set: LabelSet | None, task: Task) -> JsonMapping:
    return {}


@dataclass(frozen=True)
class TaskRules:
    """The tasks of a family. ``trained`` is the task that the model's name or config.json states, if one does.

    - ``able(config, trained, label_set)`` are the tasks that a model can do.
    - ``settings(config, trained, label_set, task)`` are the published values of the task's settings, those of keys of
      the config and the switches of its function of ``vision/postprocess``. What is absent does not apply.
    - ``refusals`` tell, of the tasks that it cannot do at all, why not.
    """

    able: Callable[[JsonMapping, Task | None, LabelSet | None], Sequence[Task]]
    settings: Callable[[JsonMapping, Task | None, LabelSet | None, Task], JsonMapping] = _no_settings
    refusals: Mapping[Task, str] = field(default_factory=dict)


def _no_paper(config: JsonMapping, plan: PreprocessPlan, label_set: LabelSet, task: Task) -> PreprocessPlan | None:
    return None


def _sized(config: JsonMapping, plan: PreprocessPlan, size: Size) -> PreprocessPlan:
    return with_size(plan, size)


def _any_size(config: JsonMapping, plan: PreprocessPlan) -> str | None:
    return None


@dataclass(frozen=True)
class PixelRules:
    """Rules by which the models of a family see an image. ``plan`` is the checkpoint's own: its normalization is kept.

    - ``own(config, processor, task)`` is the checkpoint's own preprocessing. Raises UsageError for a processor that the
      family does not take.
    - ``paper(config, plan, label_set, task)`` is the preprocessing that was published for a label set, or None
      (``config`` has the settled labels, and all names of the model in ``_name_or_path``, here, in ``own`` and in
      ``windows``).
    - ``sized(config, plan, size)`` is that for a size of the user. Raises UsageError for a size at which the model
      cannot run.
    - ``size_problem(config, plan)`` tells why the model cannot see the canvases of a plan, or is None.
    - ``windows(config, label_set, task)`` are the windows that its test slides over the resized image, or None where it
      sees the whole. Only a semantic task has any. The label set is None unless ``preprocess.size`` is ``paper``: those
      of its published test go with its published size. ``own`` and ``paper`` say what the image is resized to.
    """

    own: Callable[[JsonMapping, JsonMapping, Task], PreprocessPlan]
    paper: Callable[[JsonMapping, PreprocessPlan, LabelSet, Task], PreprocessPlan | None] = _no_paper
    sized: Callable[[JsonMapping, PreprocessPlan, Size], PreprocessPlan] = _sized
    size_problem: Callable[[JsonMapping, PreprocessPlan], str | None] = _any_size
    windows: Callable[[JsonMapping, LabelSet | None, Task], SlidingWindow | None] | None = None


@dataclass(frozen=True)
class AsPublished:
    """Weights of a family's authors run as this says, where transformers runs them otherwise.

    - ``are_these(config, name)`` tells them by config.json and the hub id that the user gave. What is tuned with
      transformers keeps to transformers.
    - ``pixels(plan)`` is their preprocessing for the checkpoint's own plan. ``Network.predict_published`` runs them.
    - ``note`` says so. ``unsure`` is said of others that know the labels of ``label_set``.
    """

    are_these: Callable[[JsonMapping, str], bool]
    pixels: Callable[[PreprocessPlan], PreprocessPlan]
    note: str
    label_set: str
    unsure: str


@dataclass(frozen=True)
class Published:
    """The licenses, labels and other facts of published weights, which their names tell.

    - ``licenses`` are theirs, by the beginning of the name. ``base_license`` is that of what all weights of the family
      were made from. It holds whatever a card says.
    - ``labels`` are their label sets, by patterns of hub ids as ``fnmatch`` has them, for those whose config.json names
      no labels.
    - ``deltas`` are names (patterns of their last part) of weights that are only what is to be added to another
      model's, with the name of the whole ones.
    - ``otherwise`` tells which weights run otherwise than in transformers, and how.
    """

    licenses: Mapping[str, str] = field(default_factory=dict)
    base_license: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    deltas: Mapping[str, str] = field(default_factory=dict)
    otherwise: AsPublished | None = None


@dataclass(frozen=True)
class NewModel:
    """A training without ``model.uri`` makes a model of the one family that has this record.

    ``processor`` is its preprocessor_config.json, and ``queries`` how many it has unless the config says otherwise.
    """

    processor: JsonMapping
    queries: int


def _nothing(*given: object) -> Iterator[str]:
    return iter(())


@dataclass(frozen=True)
class Family:
    """The rules of one architecture. ``config`` is always a checked config.json, ``processor`` the image processor's.

    - ``name`` for people, ``model_type`` as in config.json, ``class_name`` of ``transformers``.
    - ``network()`` loads torch.
    - ``config_problems(config)`` and ``weight_problems(config, shapes)`` yield what is wrong, a line each, and so does
      ``value_problems(files)`` of the numbers in whole safetensors files.
    - ``label_sets`` are those that are recognized by their names.
    - ``processor_arguments`` replace settings of a preprocessor_config.json for the processor of ``transformers``.
    - ``training()`` tells how its models are trained, and loads torch. None where they cannot be.
    """

    name: str
    model_type: str
    class_name: str
    head: ClassHead
    network: Callable[[], Network]
    pixels: PixelRules
    tasks: TaskRules
    config_problems: Callable[[JsonMapping], Iterator[str]] = _nothing
    weight_problems: Callable[[JsonMapping, Shapes], Iterator[str]] = _nothing
    value_problems: Callable[[Sequence[Path]], Iterator[str]] = _nothing
    published: Published = Published()
    label_sets: Sequence[LabelSet] = ALL_LABEL_SETS
    processor_arguments: JsonMapping = field(default_factory=dict)
    training: "Callable[[], Training] | None" = None
    new_model: NewModel | None = None


@cache
def all_families() -> Mapping[str, Family]:
    """Return the families by model_type. Raises RunError, naming the file, where one of them is not whole."""
    found: dict[str, Family] = {}
    members = members_of("m2f_batch.models.families", "FAMILY", Family)
    for name, family in members.items():
        if family.model_type in found:
            others = f"which {found[family.model_type].name} is for already"
            raise RunError(f"models/families/{name}.py: FAMILY is for model_type {family.model_type!r}, {others}")
        found[family.model_type] = family
    makers = [f"{name}.py" for name, family in members.items() if family.new_model is not None]
    if len(makers) != 1:
        files = ", ".join(makers) or "no file"
        raise RunError(f"models/families: exactly one FAMILY must have a new_model, but {files} has it")
    return found


def default_family() -> Family:
    """Return the family of a new model."""
    return next(family for family in all_families().values() if family.new_model is not None)


def new_queries() -> int:
    """Return how many queries a new model has."""
    return next(family.new_model.queries for family in all_families().values() if family.new_model is not None)


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
        for pattern, whole in family.published.deltas.items():
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
