"""Fast modules know the modules they replace by a class name and the name of every parameter.

A release of ``transformers`` that adds, renames or drops a parameter is noticed before one wrong logit is computed.
"""

import re
from collections.abc import Set

from torch import nn


class UnknownStructureError(Exception):
    """A module is not built as the fast one in its place expects."""


def check_structure(module: nn.Module, class_name: str, known: Set[str]) -> None:
    """Raise UnknownStructureError unless ``module`` is a ``class_name`` all of whose parameters are known.

    Numbers in names count as ``#``: ``layers.3.fc1.weight`` is known as ``layers.#.fc1.weight``. A parameter that is
    missing shows when it is taken over, as an AttributeError.
    """
    if type(module).__name__ != class_name:
        raise UnknownStructureError(f"{type(module).__name__} is not {class_name}")
    found = {re.sub(r"(?<=[._])\d+|(?<=stage)\d+", "#", name) for name, _ in module.named_parameters()}
    if unknown := found - known:
        raise UnknownStructureError(f"{class_name} has other parameters: {', '.join(sorted(unknown))}")


def affine(*names: str) -> set[str]:
    """The weight and bias of each name."""
    return {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
