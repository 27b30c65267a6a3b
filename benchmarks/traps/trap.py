"""A trap: something that transformers does with a model's logits or pixels, and its original does not."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Shown:
    """What both do with the same thing, in words, and in ``maps`` that a picture can show.

    - ``maps`` are the image [H, W, 3] and the ids or classes of both [H, W], -1 where there is nothing.
    - ``differs`` says in figures how far the two are apart.
    - ``is_there`` is false where this transformers does as the original.
    - ``is_ours_defined`` is true where ours is what the original defines, and None where ours was not executed.
    """

    theirs: str
    ours: str
    definition: str
    differs: str
    is_there: bool
    is_ours_defined: bool | None
    maps: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trap:
    """A line of the table: whose it is, what it is in one sentence, and what shows it.

    ``is_mended`` says that the transformers of requirements.lock does as the original.
    """

    family: str
    task: str
    says: str
    show: Callable[[], Shown]
    is_mended: bool = False
