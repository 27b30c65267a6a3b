"""Fast modules know the modules they replace by a class name and the name of every parameter.

A release of ``transformers`` that adds, renames or drops a parameter is noticed before one wrong logit is computed.
"""

import re
from collections.abc import Set
from typing import TypeVar, cast

from torch import nn

View = TypeVar("View", bound=nn.Module)


class UnknownStructureError(Exception):
    """A module is not built as the fast one in its place expects."""


def checked(module: nn.Module, view: type[View], known: Set[str]) -> View:
    """Return ``module`` as its ``view``, a class of that name that declares what is read of it.

    Raises UnknownStructureError unless it is of a class of that name, and all of its parameters are known. Numbers in
    names count as ``#``: ``layers.3.fc1.weight`` is known as ``layers.#.fc1.weight``. A parameter that is missing shows
    when it is taken over, as an AttributeError.
    """
    if type(module).__name__ != view.__name__:
        raise UnknownStructureError(f"{type(module).__name__} is not {view.__name__}")
    found = {re.sub(r"(?<=[._])\d+|(?<=stage)\d+", "#", name) for name, _ in module.named_parameters()}
    if unknown := found - known:
        raise UnknownStructureError(f"{view.__name__} has other parameters: {', '.join(sorted(unknown))}")
    return cast(View, module)


def affine(*names: str) -> set[str]:
    """Name the weight and bias of each name."""
    return {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
