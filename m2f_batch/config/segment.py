"""The config of the segment job: every field with its unit, its default and the reason for it, and nowhere else.

The sections that the finetune job shares, or has its own form of, are here too.

Loading and error messages are in ``loading``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from m2f_batch.config.deadline import ALLOWED, as_text


def _no_bool(value: Any) -> Any:
    """pydantic would take true for 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


def _ordered(value: int | tuple[int, int]) -> int | tuple[int, int]:
    if isinstance(value, tuple) and value[0] > value[1]:
        raise PydanticCustomError("range_order", "Input should have its minimum first")
    return value


def _deadline(value: Any) -> Any:
    try:
        return as_text(value)
    except ValueError as error:
        reason = "quote a time of day: '16:00'" if str(error) == "quotes are missing" else f"input should be {ALLOWED}"
        raise PydanticCustomError("deadline", reason) from None


Task = Literal["instance", "semantic", "panoptic"]
Precision = Literal["fp32", "bf16", "fp16"]
Whole = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Pixels = Annotated[Whole, Field(ge=1)]
Count = Annotated[Whole, Field(ge=1)]
CountOrRange = Annotated[Count | tuple[Count, Count], AfterValidator(_ordered)]

Deadline = Annotated[str | None, BeforeValidator(_deadline)]

# keys of both jobs
RayAddress = Annotated[str | None, Field(description="Ray cluster; RAY_ADDRESS or a local Ray if not set")]
TokenWaiver = Annotated[
    bool,
    Field(
        description="let submit send the job to another machine whose cluster asks for no token: whoever reaches such "
        "a cluster runs code on it, so only where nobody else can"
    ),
]

# which postprocess keys decide something in which task
POSTPROCESS_KEYS: dict[Task, frozenset[str]] = {
    "instance": frozenset({"score_threshold", "mask_threshold", "top_k", "stuff_ids"}),
    "panoptic": frozenset({"score_threshold", "mask_threshold", "overlap_threshold", "stuff_ids"}),
    "semantic": frozenset(),
}


class Section(BaseModel):
    """A frozen part of a config; unknown keys are errors.

    ``key_aliases`` and ``value_aliases`` (by key) are transformers' words for ours, taken wherever a config is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)
    key_aliases: ClassVar[Mapping[str, str]] = {}
    value_aliases: ClassVar[Mapping[str, Mapping[str, str]]] = {}


class InputConfig(Section):
    """Where images come from."""

    uri: str = Field(min_length=1, description="directory, object-store prefix, glob, file, manifest or COCO JSON")
    root: str | None = Field(None, description="folder of the file names of a COCO JSON; its own folder if not set")
    max_error_fraction: Fraction = Field(
        0.05,
        description="share of images that may fail; above it the run ends with exit code 3 (1 = never); files without "
        "extension that prove to be no image count only where there is nothing else",
    )
    max_removed_fraction: Fraction = Field(
        0.1, description="share of the listed images that may vanish from one run to the next; above it nothing is done"
    )
    max_pixels: Pixels = Field(
        200_000_000, description="pixels of one image, checked before decoding; 200 million RGB pixels are 0.6 GB"
    )
    fetch_threads: Count = Field(16, le=256, description="downloads at once per fetching task")


class ModelConfig(Section):
    """Which model, and how it computes."""

    value_aliases = {"precision": {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}}

    uri: str = Field(
        min_length=1, description="Hugging Face directory, hub id (id@revision), or object-store URI of a directory"
    )
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    task: Task | None = Field(None, description="instance, semantic or panoptic; inferred from the model if not set")
    precision: Precision = Field("fp32", description="fp32, bf16 or fp16 (autocast); weights stay in float32")
    compile: bool = Field(
        False,
        description="torch.compile the model: minutes at the start, faster afterwards; what is checked at the "
        "start are its parts before they are compiled",
    )
    allowed_licenses: tuple[str, ...] | None = Field(
        None, description="licences of weights that may be used, e.g. [mit, apache-2.0]; others are refused"
    )


class AspectSize(Section):
    """Aspect ratio kept: the shortest edge in pixels, unless the longest would exceed its own."""

    shortest_edge: Pixels
    longest_edge: Pixels


class ExactSize(Section):
    """Exactly this size in pixels; the aspect ratio is not kept."""

    height: Pixels
    width: Pixels


Size = AspectSize | ExactSize
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
        description="checkpoint, paper (test size of the label set, rounded as detectron2), "
        "{shortest_edge, longest_edge} or {height, width}",
    )
    normalize: Normalization | None = Field(
        None,
        description="{mean, std} of red, green and blue (of pixels from 0 to 1: divide those of 0 to 255 by 255) that "
        "the model was trained with; what the checkpoint's image processor says if not set. ImageNet's are "
        "{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}",
    )


class PostprocessConfig(Section):
    """From logits to segments. A field that is not set takes the paper's value for the task."""

    key_aliases = {
        "label_ids_to_fuse": "stuff_ids",
        "threshold": "score_threshold",
        "overlap_mask_area_threshold": "overlap_threshold",
    }

    score_threshold: Fraction | None = Field(
        None, description="instance 0.5, panoptic 0.8 (Mapillary Vistas 0.0); 0 keeps all (for AP)"
    )
    mask_threshold: Annotated[Number, Field(gt=0, lt=1)] | None = Field(
        None, description="probability from which a pixel belongs to a mask; 0.5"
    )
    top_k: Count | None = Field(None, description="instance: (query, class) pairs looked at; 100")
    overlap_threshold: Fraction | None = Field(
        None, description="panoptic: least share of a query's own mask that it must own; 0.8"
    )
    stuff_ids: frozenset[Annotated[Whole, Field(ge=0)]] | None = Field(
        None, description="label ids that are stuff; from the checkpoint or its label set if not set"
    )


class ComputeConfig(Section):
    """Where and with how much. Decides no label, except ``threads_per_actor`` on CPU (rounding)."""

    address: RayAddress = None
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where the cluster has GPUs")
    actors: CountOrRange | None = Field(
        None, description="model replicas: a number, or [min, max]; what the cluster holds if not set"
    )
    gpus_per_actor: Annotated[Number, Field(gt=0)] | None = Field(None, description="GPU share of an actor; 1")
    threads_per_actor: Count = Field(
        2, description="CPU threads of the forward pass; fixed, since another number rounds differently"
    )
    batch_size: Count | None = Field(
        None,
        description="images of equal canvas per forward pass on CUDA; found in seconds by trying, with model.compile 8",
    )
    allow_no_token: TokenWaiver = False


class TrainComputeConfig(Section):
    """Where a training runs, and with how much."""

    address: RayAddress = None
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there are GPUs")
    gpus_per_worker: Annotated[Number, Field(gt=0)] | None = Field(None, description="GPU share of a worker; 1 on cuda")
    threads_per_worker: Count | None = Field(
        None, description="CPU threads of a worker's forward and backward pass; what its node holds per worker"
    )
    data_cpus: Count | None = Field(None, description="CPUs that read and augment; what workers leave, and never none")
    allow_no_token: TokenWaiver = False


class OutputConfig(Section):
    """Where rows go."""

    uri: str = Field(min_length=1, description="directory or object-store URI of the run, not inside the input")
    overwrite: bool = Field(
        False,
        description="delete the run in output.uri and start anew; an unfinished one of the same settings goes on",
    )
    images_per_file: Annotated[Count, Field(le=4096)] | None = Field(
        None, description="images per Parquet file; by default some 256 files of 32 to 4096 images"
    )


class RunConfig(Section):
    """How a run behaves. Decides no label."""

    images_per_unit: Count = Field(
        32,
        le=4096,
        description="images that travel and are committed together; a killed process costs 4 units at most; dozens of "
        "fast actors want more, for each unit costs the driver as much, and memory for the images of one",
    )
    retry: Annotated[str, Field(pattern=r"^(errors(=[A-Za-z]+(/[A-Za-z]+)?)?|tiff)$")] | None = Field(
        None,
        description="label images again whose row is an error: errors, or errors=REASON (fetch, decode/Truncated); "
        "tiff: those named .tif or .tiff, of which older releases read some layouts wrong",
    )
    lease_seconds: Annotated[Number, Field(ge=3, le=3600)] = Field(
        60, description="a run that has said nothing for so long may be taken over by another one"
    )
    log: Literal["text", "json"] = Field("text", description="what is printed: lines for people, or JSON objects")
    deadline: Deadline = Field(
        None,
        description=f"when the run should be done: {ALLOWED}; UTC where no zone is given. status, the log and the "
        "metrics say whether it will be late, and nothing stops it; a run that was killed keeps the moment that it had",
    )


class S3Config(Section):
    """How S3, or a server that speaks its protocol, is asked. Decides no label."""

    addressing_style: Literal["auto", "virtual", "path"] | None = Field(
        None,
        description="where requests name the bucket: virtual (BUCKET.host/KEY), path (host/BUCKET/KEY), or auto; as "
        "AWS_VIRTUAL_HOSTING, ~/.aws/config or boto3 say if not set: path at endpoints other than AWS",
    )
    request_payer: Literal["requester"] | None = Field(
        None, description="requester: read requester-pays buckets, at the cost of these keys; or AWS_REQUEST_PAYER"
    )
    anonymous: bool | tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")], ...] = Field(
        False,
        description="true: ask without keys, as public buckets want; or the names of those buckets, where others need "
        "keys; or AWS_NO_SIGN_REQUEST=YES",
    )

    @model_validator(mode="after")
    def _payer_has_keys(self) -> "S3Config":
        if self.anonymous is True and self.request_payer is not None:
            raise PydanticCustomError(
                "conflict",
                "storage.s3.request_payer: 'requester' does not apply to storage.s3.anonymous true: who pays is known "
                "by keys",
            )
        return self


class StorageConfig(Section):
    """What a job may read and write, and how. Decides no label."""

    allow: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None,
        min_length=1,
        description="the only places that may be read or written, with all below them: folders, s3://bucket/prefix/, "
        "s3:// (all buckets), hf://owner/name (a model of the hub), https://host/prefix/ (images on the web, of which "
        "nothing is read otherwise); any but the web if not set",
    )
    s3: S3Config = S3Config()


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
