"""Defines the ``data`` section of a finetune config: annotated images, in any format that is read."""

from typing import Annotated, NewType

from pydantic import Field, PlainValidator, model_validator

from m2f_batch.config.formats import format_read, read_formats, takers
from m2f_batch.config.ranges import Values
from m2f_batch.config.section import MAX_PIXELS, Number, Pixels, Section, Whole, conflict

FormatName = NewType("FormatName", str)  # no plain str, so that --set takes YAML for it, as for all choices
ClassNames = Annotated[
    str | tuple[str | Whole, ...] | dict[str | Whole, str | Whole],
    Values("a file, a list of names from id 0, or a mapping of ids to names"),
]
_Channel = Annotated[Whole, Field(ge=0, le=255)]
Color = str | tuple[_Channel, _Channel, _Channel]
Palette = Annotated[
    str | tuple[Color, ...] | dict[str | Whole, Color],
    Values("a file, or a mapping of names or ids to [r, g, b], e.g. {road: [128, 64, 128]}"),
]


def is_inline(text: str) -> bool:
    """Tell whether names or colors are given as a text of YAML, and not as the file that holds them."""
    return text.lstrip()[:1] in ("[", "{")


def _of(key: str, text: str) -> str:
    """Return the description of a key that only some formats take."""
    return f"{text} (of {takers(key)} alone)"


class DataConfig(Section):
    """Annotated images, to train on and to validate with."""

    format: Annotated[FormatName, PlainValidator(format_read), Values(choices=lambda: [*read_formats()])] = Field(
        FormatName("coco"), description=f"format of the annotations, of data.val too: {', '.join(read_formats())}"
    )
    train: str = Field(
        min_length=1,
        description="the annotations: COCO JSON, panoptic JSON, data.yaml, folder of PNGs or labelme JSONs; for PNGs "
        "also a file of class names (semantic) or an id map (instance), with data.train_masks as their folder",
    )
    train_images: str | None = Field(
        None, min_length=1, description="folder of the images; beside the annotations if not set"
    )
    train_masks: str | None = Field(
        None,
        min_length=1,
        description="folder of the PNGs, of panoptic and PNG formats; beside the annotations if not set",
    )
    val: str | None = Field(
        None, min_length=1, description="annotations to validate with, as data.train; none if not set"
    )
    val_images: str | None = Field(None, min_length=1, description="folder of the images of data.val")
    val_masks: str | None = Field(None, min_length=1, description="PNG folder of data.val")
    split: Annotated[Number, Field(gt=0, lt=1)] | None = Field(
        None, description="share of the images of data.train to train on, the rest validates; only without data.val"
    )
    split_seed: Annotated[Whole, Field(ge=0)] = Field(
        0, description="a number that decides which images are in which part of data.split"
    )
    stratify: bool = Field(False, description="keep the share of every class in both parts of data.split")
    group_by: str | None = Field(
        None,
        min_length=1,
        description="groups of images that stay in one part of data.split: folder, or pattern:REGEX with one group, "
        "e.g. 'pattern:(patient\\d+)'. Without it both parts may have images of one patient or film",
    )
    ignore_index: Annotated[Whole, Field(ge=0, le=65535)] | None = Field(
        None,
        description=_of("ignore_index", "value of pixels that are left out; never taken from the model's processor"),
    )
    do_reduce_labels: bool = Field(
        False,
        description=_of(
            "do_reduce_labels", "take 0 for background, which is left out, and values less 1 for class ids"
        ),
    )
    crowd_as_object: bool = Field(
        False,
        description=_of(
            "crowd_as_object",
            "take masks with iscrowd: 1 for objects; for files of tools that write single objects so, as CVAT does "
            "with brush masks",
        ),
    )
    max_pixels: Pixels = Field(MAX_PIXELS, description="most pixels of one image or mask, checked before it is decoded")
    names: ClassNames | None = Field(
        None,
        description=_of(
            "names",
            "names of the classes, of data.val too: a file (JSON, YAML, or one per line), a list "
            "from 0 or a map of ids; if not set, a file beside the masks such as names.txt or classes.json, if it fits",
        ),
    )
    mask_suffix: str | None = Field(
        None,
        min_length=1,
        description=_of(
            "mask_suffix",
            "ending of the masks' names before the extension, where images have another or "
            "none, e.g. _mask; if not set, found where no mask has an image's name, as Cityscapes' _gtFine_labelIds",
        ),
    )
    palette: Palette | None = Field(
        None,
        description=_of(
            "palette",
            "the color of each class, where masks are pictures: a file or a map of names or ids to [r, g, b], "
            "e.g. {road: [128, 64, 128]}; __ignore__ is the name of colors that are ignored",
        ),
    )

    @property
    def files_named(self) -> dict[str, str]:
        """The files that ``data.names`` and ``data.palette`` name, by field."""
        given = {"data.names": self.names, "data.palette": self.palette}
        return {field: value for field, value in given.items() if isinstance(value, str) and not is_inline(value)}

    @model_validator(mode="after")
    def _one_validation(self) -> "DataConfig":
        if self.val is not None and self.split is not None:
            raise conflict("data.val and data.split are both given: keep one of them")
        if self.val is None and (self.val_images or self.val_masks):
            raise conflict("data.val is not given, but data.val_images or data.val_masks is: give all or none")
        return self
