"""Defines what all sections of a config are made of, and the keys that both jobs have."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from m2f_batch.config.ranges import Values


def conflict(message: str) -> PydanticCustomError:
    """Return a mistake between fields, which the message names."""
    return PydanticCustomError("conflict", message.replace("{", "{{").replace("}", "}}"))


def _no_bool(value: object) -> object:
    """Refuse true and false, because pydantic would take true for 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


def _ordered(value: int | tuple[int, int]) -> int | tuple[int, int]:
    if isinstance(value, tuple) and value[0] > value[1]:
        raise PydanticCustomError("range_order", "Input should have its minimum first")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Pixels = Annotated[Whole, Field(ge=1)]
Count = Annotated[Whole, Field(ge=1)]
CountOrRange = Annotated[
    Count | tuple[Count, Count], AfterValidator(_ordered), Values("a whole number from 1, or two of them, [min, max]")
]

# of one image, in RGB 0.6 GB
MAX_PIXELS = 200_000_000

# keys of both jobs
RayAddress = Annotated[
    str | None,
    Field(min_length=1, description="address of the Ray cluster; RAY_ADDRESS, else a local Ray, if not set"),
]
TokenWaiver = Annotated[
    bool,
    Field(
        description="let submit send the job to another machine whose cluster asks for no token: whoever reaches such "
        "a cluster runs code on it, so only where nobody else can"
    ),
]


Licenses = Annotated[
    tuple[str, ...] | None,
    Field(description="licenses of weights that may be used, e.g. [mit, apache-2.0]; others are refused"),
    Values("a list of licenses, e.g. [mit, apache-2.0]"),
]


class Section(BaseModel):
    """A frozen part of a config, in which unknown keys are errors.

    ``key_aliases`` and ``value_aliases`` (by key) are transformers' words for ours, taken wherever a config is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)
    key_aliases: ClassVar[Mapping[str, str]] = {}
    value_aliases: ClassVar[Mapping[str, Mapping[str, str]]] = {}
