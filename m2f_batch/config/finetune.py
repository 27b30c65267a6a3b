"""Defines the config of the finetune job: each field with its unit, its default and its reason, and nowhere else.

"Paper" is Mask2Former (arXiv 2112.01527), section 4.1 and appendix, and the configs of its repository.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from m2f_batch.config.data import DataConfig
from m2f_batch.config.formats import read_formats
from m2f_batch.config.ranges import Values
from m2f_batch.config.section import (
    Count,
    CountOrRange,
    Fraction,
    Licenses,
    Number,
    RayAddress,
    Section,
    TokenWaiver,
    Whole,
    conflict,
)
from m2f_batch.config.segment import IMAGENET, Normalization, Size, Task
from m2f_batch.config.storage import StorageConfig
from m2f_batch.errors import UsageError

Resize = Literal["fit", "shortest_edge"]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
CanvasEdge = Annotated[
    Whole, Field(ge=32, multiple_of=32), Values("a multiple of 32")
]  # the coarsest feature map has a stride of 32 pixels


TIMM = "timm/"  # begins the name of a backbone of timm in model.backbone


class StartConfig(Section):
    """The start of a training: a checkpoint, a pretrained backbone, or nothing."""

    uri: str | None = Field(
        None,
        min_length=1,
        description="the model to start from: a Hugging Face directory, hub id (id@revision) or bucket URI of a "
        "Mask2Former; if not set, a new one is made from model.backbone and model.config",
    )
    revision: str | None = Field(
        None, min_length=1, description="which version of a hub id: a branch, a tag or a commit"
    )
    task: Task | None = Field(
        None,
        description="instance, semantic or panoptic; that of the checkpoint, else of the data's format, if not set",
    )
    config: dict[str, Any] = Field(
        default_factory=dict,
        description="Mask2FormerConfig parameters of transformers, over the checkpoint's or its defaults, e.g. "
        "--set model.config.num_queries=200",
    )
    backbone: str | None = Field(
        None,
        min_length=1,
        description="backbone of a new model: Hugging Face directory, hub id, or timm/NAME (extra timm)",
    )
    backbone_weights: bool = Field(True, description="start from the pretrained weights of model.backbone")
    allowed_licenses: Licenses = None

    @model_validator(mode="after")
    def _one_start(self) -> "StartConfig":
        if self.uri is not None and self.backbone is not None:
            raise conflict("model.uri and model.backbone are both given: a checkpoint brings its backbone; keep one")
        return self


class AugmentConfig(Section):
    """From an annotated image to a training example: scaled at random, cropped or padded, mirrored, colors changed."""

    crop_size: CanvasEdge | tuple[CanvasEdge, CanvasEdge] = Field(
        1024,
        description="pixels of the training canvas, multiples of 32: an edge, or [height, width]; the paper's is 1024 "
        "for COCO, 512 or 640 for ADE20K",
    )
    resize: Resize = Field(
        "fit",
        description="what scale 1 is: fit (the whole image fits the canvas; paper: COCO) or shortest_edge (that is the "
        "canvas's; paper: semantic data; the longest edge is at most twice the largest shortest edge)",
    )
    scale: tuple[Positive, Positive] = Field(
        (0.1, 2.0),
        description="[least, most] size of an image relative to that of augment.resize; [1, 1] = none, which suits "
        "a few hundred steps",
        examples=["[0.5, 1.5]"],
    )
    flip: Fraction = Field(0.5, description="how often an image is mirrored left to right; 0 where left matters")
    color: Fraction = Field(
        0.0,
        description="strength of brightness, contrast, saturation and hue jitter; 1 is the paper's for semantic data "
        "(32 of 255, 50 %, 50 %, 18 of 180 degrees), which has none for instances",
    )

    @model_validator(mode="after")
    def _scale_order(self) -> "AugmentConfig":
        if self.scale[0] > self.scale[1]:
            raise conflict(f"augment.scale: {list(self.scale)} must have its minimum first")
        return self


class TrainConfig(Section):
    """The recipe. Its defaults are the paper's for COCO."""

    value_aliases: ClassVar[Mapping[str, Mapping[str, str]]] = {"precision": {"float32": "fp32", "bfloat16": "bf16"}}

    steps: Count | None = Field(None, description="how many optimizer steps; this or train.epochs", examples=["1000"])
    epochs: Positive | None = Field(
        None, description="how often every image is seen; this or train.steps", examples=["10"]
    )
    batch_size: Count = Field(16, description="images per optimizer step, over all workers")
    accumulate: Count = Field(
        1, description="forward passes per worker and step: the same gradients with so many times less memory"
    )
    learning_rate: Positive = Field(1e-4, description="peak of the schedule, for batch_size 16; scale it with that")
    backbone_multiplier: NotNegative | None = Field(
        None, description="learning rate of the backbone relative to the rest; 0.1, or 1 for random backbone weights"
    )
    weight_decay: NotNegative = Field(
        0.05, description="weight decay of AdamW, decoupled; none on norms, embeddings and relative position tables"
    )
    clip_norm: Positive | None = Field(0.01, description="largest norm of all gradients together; null = no clipping")
    schedule: Literal["step", "cosine", "poly"] = Field(
        "step",
        description="how the learning rate falls: step (paper: COCO), poly (paper: ADE20K, Cityscapes; power 0.9) or "
        "cosine, both down to 0",
    )
    milestones: tuple[Annotated[Number, Field(gt=0, lt=1)], ...] = Field(
        (0.889, 0.963),
        description="of schedule step: shares of the steps after which the learning rate falls to a tenth",
        examples=["[0.8, 0.9]"],
    )
    warmup_steps: Annotated[Whole, Field(ge=0)] = Field(
        0, description="steps of linear rise at the start; the paper has none, new heads on old weights like some"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="numbers of the forward pass: fp32, or bf16 (autocast; weights, optimizer and loss stay float32)",
    )
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = Field(
        0, description="a number that decides new weights, order, augmentation and the points of the loss"
    )
    deterministic: bool = Field(
        False, description="train bit by bit the same again on the same machine and number of workers; on CPU alone"
    )
    workers: CountOrRange = Field(
        1, description="training processes: a number, or [min, max] (elastic); 1 needs no Ray"
    )
    ema: Annotated[Number, Field(gt=0, lt=1)] | None = Field(
        None, description="decay per step of a moving average of the weights, which is what is validated and kept"
    )
    freeze: tuple[str, ...] = Field(
        (),
        description="patterns of parameter names that are not trained, e.g. ['model.pixel_level_module.encoder.*']",
        examples=["[model.pixel_level_module.encoder.*]"],
    )
    freeze_batch_norms: bool | None = Field(
        None,
        description="keep batch norms of the backbone as they are, as the paper does; true unless its weights are "
        "random. Unfrozen statistics are computed per worker, so that results then depend on the number of workers",
    )
    activation_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, about a third more time"
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        "stop",
        description="what to do about a loss that is not finite: stop (save the batch and end) or skip (leave out the "
        "step and count it)",
    )
    evaluate_every: Count | None = Field(None, description="steps between two validations; a tenth of all if not set")
    early_stopping: Count | None = Field(
        None, description="how many validations without a better model end the training; never if not set"
    )
    checkpoint_every: Count | None = Field(
        None, description="steps between checkpoints, which a kill loses at most; as evaluate_every if not set"
    )
    keep: Count = Field(2, description="checkpoints kept beside the best one")

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainConfig":
        if self.steps is None and self.epochs is None:
            text = "exactly one of them must be given, for example train.steps=1000"
            raise conflict(f"train.steps, train.epochs: {text}")
        if self.steps is not None and self.epochs is not None:
            raise conflict("train.steps, train.epochs: exactly one of them must be given, and both are")
        if tuple(sorted(self.milestones)) != self.milestones:
            raise conflict(f"train.milestones: {list(self.milestones)} must ascend")
        most = self.workers if isinstance(self.workers, int) else self.workers[1]
        if self.batch_size < most * self.accumulate:
            raise conflict(
                f"train.batch_size: {self.batch_size} images cannot be shared by {most} workers (train.workers) "
                f"x {self.accumulate} forward passes (train.accumulate); give at least {most * self.accumulate}"
            )
        return self


class TrainComputeConfig(Section):
    """The machines that a training takes."""

    address: RayAddress = None
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where the model is trained: cuda, cpu, or auto, which is cuda where there are GPUs"
    )
    gpus_per_worker: Annotated[Number, Field(gt=0)] | None = Field(
        None, description="GPUs of one worker; 1 on cuda if not set", examples=["1"]
    )
    threads_per_worker: Count | None = Field(
        None, description="CPU threads of a worker's forward and backward pass; its share of the node if not set"
    )
    data_cpus: Count | None = Field(
        None, description="CPUs that read and augment; those that workers leave, at least 1, if not set"
    )
    allow_no_token: TokenWaiver = False


class TunedModelConfig(Section):
    """The directory of the tuned model, and how that is to be used."""

    uri: str = Field(min_length=1, description="where the tuned model goes: a directory or an object-store URI")
    overwrite: bool = Field(
        False,
        description="delete the training in output.uri and start anew, unless it is an unfinished one of the same "
        "settings that was begun so. If not set, the training that is there is resumed",
    )
    size: Size | None = Field(
        None,
        description="size at which the tuned model sees images, in validation and for good (preprocessor_config.json): "
        "{shortest_edge, longest_edge} or {height, width}; that of the checkpoint, else by augment.crop_size",
        examples=["{shortest_edge: 800, longest_edge: 1333}"],
    )
    normalize: Normalization | None = Field(
        None,
        description="{mean, std} of red, green and blue (of pixels from 0 to 1), in training and for good "
        "(preprocessor_config.json); those of the checkpoint or of the backbone's weights, else ImageNet's",
        examples=[IMAGENET],
    )


class FinetuneConfig(Section):
    """The finetune job."""

    data: DataConfig
    model: StartConfig = StartConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = Field({}, validate_default=True)  # without it, too, the mistake is that steps are missing
    compute: TrainComputeConfig = TrainComputeConfig()
    output: TunedModelConfig
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="after")
    def _one_ignored_value(self) -> "FinetuneConfig":
        named, given = self.model.config.get("ignore_value"), self.data.ignore_index
        if named is not None and given is not None and named != given:
            raise conflict(f"data.ignore_index is {given}, but model.config.ignore_value is {named}: keep one of them")
        return self

    @model_validator(mode="after")
    def _keys_apply(self) -> "FinetuneConfig":
        """Refuse keys that do nothing, unless they are at their defaults, which take back what a file says."""
        data, model, train, compute = self.data, self.model, self.train, self.compute
        takes = read_formats()[data.format].takes
        validates = data.val is not None or data.split is not None
        rules = [
            (data.split is not None, "data", "split_seed", "without data.split"),
            (data.split is not None, "data", "stratify", "without data.split"),
            ("names" in takes, "data", "names", f"to data.format {data.format!r}"),
            ("mask_suffix" in takes, "data", "mask_suffix", f"to data.format {data.format!r}"),
            ("palette" in takes, "data", "palette", f"to data.format {data.format!r}"),
            (data.palette is None, "data", "do_reduce_labels", "with data.palette, which says what each color is"),
            (validates, "data", "group_by", "without data.split or data.val"),
            ("crowd_as_object" in takes, "data", "crowd_as_object", f"to data.format {data.format!r}"),
            (model.uri is not None, "model", "revision", "without model.uri"),
            (model.backbone is not None, "model", "backbone_weights", "without model.backbone"),
            (train.schedule == "step", "train", "milestones", f"to train.schedule {train.schedule!r}"),
            (validates, "train", "evaluate_every", "without data.val or data.split"),
            (validates, "train", "early_stopping", "without data.val or data.split"),
            (compute.device != "cpu", "compute", "gpus_per_worker", "to compute.device 'cpu'"),
        ]
        given = self.model_dump(exclude_defaults=True)
        lines = [
            f"{part}.{key}: {given[part][key]!r} does not apply {why}"
            for applies, part, key, why in rules
            if not applies and key in given.get(part, {})
        ]
        if lines:
            raise conflict("\n".join(lines))
        return self

    @property
    def ignore_index(self) -> int | None:
        """The value of pixels in PNG masks that count for nothing.

        ``data.ignore_index``, or ``ignore_value`` where ``model.config`` gives it: transformers' parameter for just
        this, which transformers reads nowhere.
        """
        named = self.model.config.get("ignore_value")
        in_masks = "ignore_index" in read_formats()[self.data.format].takes
        return named if self.data.ignore_index is None and in_masks else self.data.ignore_index

    @property
    def dataset(self) -> DataConfig:
        """``data`` as it is to be read: with ``ignore_index`` settled."""
        return self.data.model_copy(update={"ignore_index": self.ignore_index})


class LintConfig(FinetuneConfig):
    """A finetune job that is not run, of which the annotated images are looked at: it needs no length."""

    @model_validator(mode="before")
    @classmethod
    def _one_step(cls, tree: Any) -> Any:
        train = tree.get("train") or {}
        if isinstance(train, dict) and train.get("steps") is None and train.get("epochs") is None:
            return {**tree, "train": {**train, "steps": 1}}
        return tree


def check_device(config: FinetuneConfig, device: str) -> None:
    """Raise UsageError where a device ("cpu", "cuda") cannot do what ``config`` asks."""
    if config.train.deterministic and device == "cuda":
        raise UsageError(
            "true is not to be had on CUDA, where torch has no deterministic gradients of grid_sample "
            "and bilinear resizing; allowed with compute.device=cpu",
            field="train.deterministic",
        )
