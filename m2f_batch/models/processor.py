"""A preprocessor_config.json, in every form the hub has, is read into a PreprocessPlan."""

from collections.abc import Mapping, Set
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from m2f_batch.config.section import Pixels, Section
from m2f_batch.config.segment import AspectSize, ExactSize
from m2f_batch.errors import UsageError
from m2f_batch.models.preprocess_plan import IMAGENET_MEAN, IMAGENET_STD, Channels, PreprocessPlan

LONGEST_EDGE = 1333  # the default of version 4
DIVISOR = 32  # the default of every version, also where null stands (4.57's fast processors; the others fail on it)
NO_EDGE = 2**31 - 1  # a longest edge that binds nothing
KINDS = ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")
SIZES = "a number of pixels, {shortest_edge, longest_edge}, {shortest_edge} or {height, width}"


class LoneEdge(Section):
    """A size with the shortest edge alone, which older checkpoints have."""

    shortest_edge: Pixels


def _not_zero(std: Channels | float) -> Channels | float:
    if not all(_channels(std)):
        raise ValueError("must not be 0")
    return std


class ProcessorConfig(BaseModel):
    """The settings of a preprocessor_config.json that inference uses, in every form the hub has.

    Missing keys take the defaults of the processors of MaskFormer and its successors. Keys for training are ignored.
    """

    image_processor_type: str | None = None
    feature_extractor_type: str | None = None
    do_resize: bool = True
    size: Pixels | ExactSize | AspectSize | LoneEdge | None = None
    max_size: Pixels | None = None
    noted_max_size: Pixels | None = Field(None, validation_alias="_max_size")
    size_divisor: Annotated[int, Field(ge=0, le=4096)] | None = None
    resample: Annotated[int, Field(ge=0, le=3)] = 2
    do_rescale: bool = True
    rescale_factor: Annotated[float, Field(gt=0)] = 1 / 255
    do_normalize: bool = True
    image_mean: Channels | float = IMAGENET_MEAN
    image_std: Annotated[Channels | float, AfterValidator(_not_zero)] = IMAGENET_STD
    pad_size: ExactSize | None = None


def processors_of(*families: str) -> frozenset[str]:
    """Return the names of the image processors of families, today's and those of older checkpoints."""
    return frozenset(f"{family}{kind}" for family in families for kind in KINDS)


def plan_from_processor(processor: Mapping[str, Any], known: Set[str] | None = None) -> PreprocessPlan:
    """Read the checkpoint's own settings, from a preprocessor_config.json of a ``known`` kind, if that is given.

    Raises UsageError for a processor of another kind, or with settings that mean nothing.
    """
    try:
        settings = ProcessorConfig.model_validate(processor)
    except ValidationError as error:
        fault = error.errors()[0]
        key = str(fault["loc"][0]) if fault["loc"] else ""
        value = str(processor.get(key, fault["input"]))[:100]
        allowed = SIZES if key == "size" else fault["msg"]
        raise UsageError(
            f"the image processor's {key} {value!r} is not allowed ({allowed})",
            field="model.uri",
            hint="mend its preprocessor_config.json",
        ) from None
    kind = settings.image_processor_type or settings.feature_extractor_type or ""
    if kind and known is not None and kind not in known:
        raise UsageError(f"image processor {kind!r} is not known", field="model.uri", allowed=", ".join(sorted(known)))
    size, lone_edge = _size_of(settings)
    pad = settings.pad_size
    return PreprocessPlan(
        size=size if settings.do_resize else None,
        divisor=DIVISOR if settings.size_divisor is None else settings.size_divisor,
        round_content=True,
        resample=settings.resample,
        rescale_factor=settings.rescale_factor if settings.do_rescale else None,
        mean=_channels(settings.image_mean) if settings.do_normalize else None,
        std=_channels(settings.image_std) if settings.do_normalize else None,
        pad_size=(pad.height, pad.width) if pad else None,
        lone_edge=lone_edge,
    )


def _size_of(settings: ProcessorConfig) -> tuple[AspectSize | ExactSize, bool]:
    """Return the size, and whether only the shortest edge binds.

    Of a number, the longest edge is ``max_size``, by default 1333, as in transformers 4, where ``_max_size`` was a note
    of what ``size`` had been made with.
    """
    size = settings.size
    if isinstance(size, int):
        return AspectSize(shortest_edge=size, longest_edge=settings.max_size or LONGEST_EDGE), False
    if isinstance(size, LoneEdge):
        longest = settings.noted_max_size or settings.max_size
        return AspectSize(shortest_edge=size.shortest_edge, longest_edge=longest or NO_EDGE), longest is None
    return size or AspectSize(shortest_edge=800, longest_edge=settings.max_size or LONGEST_EDGE), False


def _channels(value: Channels | float) -> Channels:
    return value if isinstance(value, tuple) else (value, value, value)
