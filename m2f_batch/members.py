"""Imports every file of a folder of plug-ins (commands, families, formats, backends), so that no table lists them."""

import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

from m2f_batch.errors import RunError

_T = TypeVar("_T")


def modules_of(package: str) -> dict[str, ModuleType]:
    """Import each file of a package. Returns the modules by the names of their files, in this order.

    >>> [*modules_of("m2f_batch.datasets.lint")][:2]
    ['command', 'copies']
    """
    return {name: importlib.import_module(f"{package}.{name}") for name in _files(package)}


def members_of(package: str, attribute: str, kind: type[_T]) -> dict[str, _T]:
    """Return the ``attribute`` of each file of a package by the file's name.

    Raises RunError, which names the file, where it cannot be imported or defines no ``kind``.
    """
    found: dict[str, _T] = {}
    for name in _files(package):
        file = f"{package.removeprefix('m2f_batch.').replace('.', '/')}/{name}.py"
        try:
            member = getattr(importlib.import_module(f"{package}.{name}"), attribute, None)
        except Exception as error:
            raise RunError(f"{file} cannot be imported ({type(error).__name__}: {error})") from error
        if not isinstance(member, kind):
            wanted = f"must define {attribute} = {kind.__name__}(...)"
            raise RunError(f"{file}: {attribute} is {member!r}, but each file of this folder {wanted}")
        found[name] = member
    return found


def _files(package: str) -> list[str]:
    folder = importlib.import_module(package)
    return sorted(found.name for found in pkgutil.iter_modules(folder.__path__) if not found.ispkg)
