"""Defines the config of the segment job: each field with its unit, its default and its reason, and nowhere else."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from m2f_batch.config.deadline import ALLOWED, as_text
from m2f_batch.config.ranges import Values
from m2f_batch.config.section import (
    MAX_PIXELS,
    Count,
    CountOrRange,
    Fraction,
    Licenses,
    Number,
    Pixels,
    RayAddress,
    Section,
    TokenWaiver,
    Whole,
    conflict,
)
from m2f_batch.config.storage import StorageConfig


def _deadline(value: object) -> object:
    try:
        return as_text(value)
    except ValueError as error:
        is_bare = str(error) == "quotes are missing"
        reason = "quote a time of day: '16:00'" if is_bare else "no time, time of day or duration"
        raise PydanticCustomError("deadline", reason) from None


Task = Literal["instance", "semantic", "panoptic"]
Precision = Literal["fp32", "bf16", "fp16"]
Deadline = Annotated[str | None, BeforeValidator(_deadline), Values(ALLOWED)]

RETRY = r"^(errors(=[A-Za-z]+(/[A-Za-z]+)?)?|tiff)$"
NORMALIZE = "{mean, std} of red, green and blue (of pixels from 0 to 1: divide those of 0 to 255 by 255)"

MOST_WINDOWS = 4  # of one axis that overlap in one place

# which postprocess keys decide something in which task
POSTPROCESS_KEYS: dict[Task, frozenset[str]] = {
    "instance": frozenset({"score_threshold", "mask_threshold", "top_k", "stuff_ids"}),
    "panoptic": frozenset({"score_threshold", "mask_threshold", "overlap_threshold", "stuff_ids"}),
    "semantic": frozenset(),
}


class InputConfig(Section):
    """The images to label."""

    uri: str = Field(
        min_length=1,
        description="the images: a directory, an object-store prefix, a glob, one file, a manifest or a COCO JSON",
    )
    root: str | None = Field(
        None, min_length=1, description="folder that the file names of a COCO JSON are in; its own folder if not set"
    )
    max_error_fraction: Fraction = Field(
        0.05,
        description="share of images that may fail; above it the run ends with exit code 3 (1 = never); files without "
        "extension that prove to be no image count only where there is nothing else",
    )
    max_removed_fraction: Fraction = Field(
        0.1, description="share of the listed images that may vanish from one run to the next; above it nothing is done"
    )
    max_pixels: Pixels = Field(
        MAX_PIXELS,
        description="most pixels of one image, checked before it is decoded; 200 million RGB pixels are 0.6 GB",
    )
    fetch_threads: Count = Field(16, le=256, description="how many downloads a fetching task has at once")


class ModelConfig(Section):
    """The model, and how it computes."""

    value_aliases: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "precision": {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
    }

    uri: str = Field(
        min_length=1,
        description="the model: a Hugging Face directory, a hub id (id@revision), or a bucket URI of a directory",
    )
    revision: str | None = Field(
        None, min_length=1, description="which version of a hub id: a branch, a tag or a commit"
    )
    task: Task | None = Field(
        None, description="what to find: instance, semantic or panoptic; inferred from the model if not set"
    )
    precision: Precision = Field(
        "fp32", description="numbers of the forward pass: fp32, bf16 or fp16 (autocast); weights stay float32"
    )
    compile: bool = Field(
        False,
        description="compile the model with torch.compile: minutes at the start, faster afterwards; what is checked at "
        "the start are its parts before they are compiled",
    )
    allowed_licenses: Licenses = None


class AspectSize(Section):
    """A size by edges, in pixels: the shortest, unless the longest would exceed its own. The aspect ratio is kept."""

    shortest_edge: Pixels
    longest_edge: Pixels


class ExactSize(Section):
    """A size in pixels, at which the aspect ratio is not kept."""

    height: Pixels
    width: Pixels


Size = AspectSize | ExactSize


class SlidingWindow(Section):
    """Windows of the resized image, in pixels, that the model sees one by one.

    A side that is not longer than ``size`` is not cut. With a ``stride`` the windows of a longer side begin at its
    multiples, and the last one is moved back to the border. Without one, there are as few as cover the side, and they
    lie evenly.
    """

    size: Pixels
    stride: Pixels | None = None

    @model_validator(mode="after")
    def _cover(self) -> "SlidingWindow":
        """Refuse a stride that leaves gaps, or one that has each pixel computed far too often."""
        if self.stride is not None and not self.size <= MOST_WINDOWS * self.stride <= MOST_WINDOWS * self.size:
            least = -(-self.size // MOST_WINDOWS)
            raise conflict(
                f"preprocess.window.stride: {self.stride} is not allowed with size {self.size}; allowed: {least} to "
                f"{self.size} (smaller ones compute each pixel more than {MOST_WINDOWS**2} times)"
            )
        return self


IMAGENET = "{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}"
PerChannel = tuple[Fraction, Fraction, Fraction]
Deviation = Annotated[Number, Field(gt=0, le=1)]


class Normalization(Section):
    """Mean and standard deviation of red, green and blue, in units of 1 (not of 255): (pixel / 255 - mean) / std."""

    mean: PerChannel
    std: tuple[Deviation, Deviation, Deviation]


class PreprocessConfig(Section):
    """From an image to pixel values."""

    size: Literal["checkpoint", "paper"] | Size = Field(
        "checkpoint",
        description="size at which the model sees an image: checkpoint (what its image processor says), paper (test "
        "size of the label set, rounded as detectron2), {shortest_edge, longest_edge}, or {height, width}, which keeps "
        "no aspect ratio",
        examples=["{shortest_edge: 800, longest_edge: 1333}"],
    )
    window: SlidingWindow | None = Field(
        None,
        examples=["{size: 512, stride: 341}"],
        description="{size, stride} in pixels of the resized image, semantic only: the model sees windows of size x "
        "size one by one, and what it gives is averaged where they overlap; without stride as few as cover the image. "
        "If not set, the family's published windows, which most have with size paper only, or the whole image at once",
    )
    normalize: Annotated[Normalization | None, Values(NORMALIZE)] = Field(
        None,
        description=f"{NORMALIZE} that the model was trained with; what the checkpoint's image processor says if not "
        f"set. ImageNet's are {IMAGENET}",
        examples=[IMAGENET],
    )


class PostprocessConfig(Section):
    """From logits to segments. A field that is not set takes the value of the family's paper for the task."""

    key_aliases: ClassVar[Mapping[str, str]] = {
        "label_ids_to_fuse": "stuff_ids",
        "threshold": "score_threshold",
        "overlap_mask_area_threshold": "overlap_threshold",
    }

    score_threshold: Fraction | None = Field(
        None,
        description="least score of a segment that is kept; the family's if not set, which for Mask2Former is instance "
        "0.5, panoptic 0.8 (Mapillary Vistas 0.0); 0 keeps all (for AP)",
        examples=["0.5"],
    )
    mask_threshold: Annotated[Number, Field(gt=0, lt=1)] | None = Field(
        None, description="probability from which on a pixel belongs to a mask; 0.5 if not set", examples=["0.5"]
    )
    top_k: Count | None = Field(
        None,
        description="instance: how many (query, class) pairs are looked at; the family's if not set, 100 for "
        "Mask2Former, as many as the model has queries for OneFormer and RF-DETR",
        examples=["100"],
    )
    overlap_threshold: Fraction | None = Field(
        None,
        description="panoptic: least share of its own mask that a query must own; 0.8 if not set",
        examples=["0.8"],
    )
    stuff_ids: frozenset[Annotated[Whole, Field(ge=0)]] | None = Field(
        None,
        description="label ids that are stuff; from the checkpoint or its label set if not set",
        examples=["[0, 5]"],
    )


class ComputeConfig(Section):
    """The machines that a run takes. Nothing here decides a label but ``threads_per_actor`` on CPU, by rounding."""

    address: RayAddress = None
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="where the model runs: cuda, cpu, or auto, which is cuda where the cluster has GPUs",
        examples=["cuda"],
    )
    actors: CountOrRange | None = Field(
        None,
        description="how many replicas of the model work at once: a number, or [min, max]; what the cluster holds if "
        "not set",
        examples=["4"],
    )
    gpus_per_actor: Annotated[Number, Field(gt=0)] | None = Field(
        None, description="GPUs of one actor, 1 if not set; 0.5 puts two on each GPU", examples=["0.5"]
    )
    threads_per_actor: Count = Field(
        2, description="CPU threads of the forward pass; fixed, since another number rounds differently"
    )
    batch_size: Count | None = Field(
        None,
        description="images of equal canvas per forward pass on CUDA; if not set, found in seconds by trying, and 8 "
        "with model.compile",
        examples=["8"],
    )
    allow_no_token: TokenWaiver = False


class OutputConfig(Section):
    """The run directory that takes the rows."""

    uri: str = Field(
        min_length=1, description="where the rows go: a directory or an object-store URI, not inside the input"
    )
    overwrite: bool = Field(
        False,
        description="delete the run in output.uri and start anew; an unfinished one of the same settings goes on",
    )
    images_per_file: Annotated[Count, Field(le=4096)] | None = Field(
        None,
        description="images per Parquet file; if not set, some 256 files of 32 to 4096 images",
        examples=["1000"],
    )


class RunConfig(Section):
    """The behavior of a run. Nothing here decides a label."""

    images_per_unit: Count = Field(
        32,
        le=4096,
        description="images that are labeled and committed together. Larger: less work for the driver, for dozens of "
        "fast actors. Smaller: less work lost when an actor dies (2 to 4 units), and less memory",
    )
    retry: Annotated[Annotated[str, Field(pattern=RETRY)] | None, Values("errors, errors=REASON or tiff")] = Field(
        None,
        description="label images again whose row is an error: errors, or errors=REASON (fetch, decode/Truncated); "
        "or tiff: those named .tif or .tiff, of which older releases read some layouts wrong",
    )
    lease_seconds: Annotated[Number, Field(ge=3, le=3600)] = Field(
        60, description="a run that has said nothing for so long may be taken over by another one"
    )
    log: Literal["text", "json"] = Field(
        "text", description="what is printed: text, lines for people, or json, an object per line"
    )
    deadline: Deadline = Field(
        None,
        description=f"when the run should be done: {ALLOWED}; UTC where no zone is given. status, the log and the "
        "metrics say whether it will be late, and nothing stops it; a run that was killed keeps the moment that it had",
    )


class SegmentConfig(Section):
    """The segment job."""

    input: InputConfig
    model: ModelConfig
    preprocess: PreprocessConfig = PreprocessConfig()
    postprocess: PostprocessConfig = PostprocessConfig()
    compute: ComputeConfig = ComputeConfig()
    output: OutputConfig
    run: RunConfig = RunConfig()
    storage: StorageConfig = StorageConfig()
