"""Families with a class for each pixel share these rules: their task, their processors, their tests in mmsegmentation.

Source of the tests: the pipelines of mmsegmentation 0.x (``LoadImageFromFile``, ``MultiScaleFlipAug``, ``Resize`` with
``keep_ratio``), which read and resize by OpenCV and pad nothing.
"""

from dataclasses import replace

from m2f_batch.config.segment import AspectSize, ExactSize, Task
from m2f_batch.errors import UsageError
from m2f_batch.models.family import ClassHead, JsonMapping, TaskRules
from m2f_batch.models.label_sets import LabelSet
from m2f_batch.models.preprocess_plan import IMAGENET_MEAN, IMAGENET_STD, PreprocessPlan, with_size
from m2f_batch.models.processor import plan_from_processor, processors_of

# what a preprocessor_config.json leaves out, by the kind of its processor
DEFAULTS: dict[str, JsonMapping] = {
    "Segformer": {"size": 512, "resample": 2, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD},
    "Beit": {"size": 224, "resample": 3, "image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)},
}
DECODE_HEAD = ClassHead("decode_head.classifier.weight")
TASKS: tuple[Task, ...] = ("semantic",)
UNABLE = "it gives each pixel a class, and nothing tells two objects of a class apart"
REFUSALS: dict[Task, str] = {"instance": UNABLE, "panoptic": UNABLE}


def only_semantic(config: JsonMapping, trained: Task | None, label_set: LabelSet | None) -> tuple[Task, ...]:
    """Return the one task of such a family, whatever its name says."""
    return TASKS


SEMANTIC = TaskRules(only_semantic, refusals=REFUSALS)


def processor_pixels(processor: JsonMapping, kinds: tuple[str, ...]) -> PreprocessPlan:
    """Read the pixels of a processor of one of ``kinds``, e.g. ``Segformer``, the first where it does not say which.

    A size of one number is a square. Raises UsageError for another processor, and for one that cuts an image off.
    """
    named = processor.get("image_processor_type") or processor.get("feature_extractor_type") or ""
    kind = next((kind for kind in kinds if str(named).startswith(kind)), kinds[0])
    settings = {**DEFAULTS[kind], **{key: value for key, value in processor.items() if value is not None}}
    # of processors of other families: these neither round nor pad
    settings = {key: value for key, value in settings.items() if key not in ("size_divisor", "pad_size", "max_size")}
    if type(settings["size"]) is int:
        settings["size"] = {"height": settings["size"], "width": settings["size"]}
    plan = plan_from_processor(settings, processors_of(*kinds))
    if kind == "Beit" and settings.get("do_center_crop"):
        raise UsageError(
            "the image processor cuts out the center of an image, and so would leave the rest of it without labels",
            field="model.uri",
            hint="set do_center_crop to false in its preprocessor_config.json",
        )
    return replace(plan, divisor=1)


def as_mmsegmentation(plan: PreprocessPlan, shortest: int, longest: int, *, stretch_to: int = 1) -> PreprocessPlan:
    """Make the plan of a test of mmsegmentation: edges rounded by mmcv, OpenCV, no padding."""
    sized = with_size(plan, AspectSize(shortest_edge=shortest, longest_edge=longest), rounding="mmcv")
    return replace(sized, resizing="opencv", resample=2, stretch_to=stretch_to)


def edge_problem(plan: PreprocessPlan, *, multiple: int, least: int) -> str | None:
    """Tell why the model cannot see a canvas of {height, width}, which is not silently changed, or give None."""
    size = plan.size
    if not isinstance(size, ExactSize) or not any(
        edge % multiple or edge < least for edge in (size.height, size.width)
    ):
        return None
    allowed = f"multiples of {multiple}" if multiple > 1 else f"at least {least} pixels"
    return f"both edges must be {allowed}, because the model sees nothing of less"


def are_counts(value: object) -> bool:
    """Tell whether a value of config.json is a list of whole numbers."""
    return isinstance(value, list) and all(type(number) is int for number in value)


def names_in(config: JsonMapping) -> str:
    """Return the names of the model, without what stands before their last slash, in lower case."""
    names = str(config.get("_name_or_path") or "").lower().split(" ")
    return " ".join(name.rstrip("/").rpartition("/")[2] for name in names)
