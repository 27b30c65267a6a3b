"""Imports every file of a folder of plug-ins (commands, families, formats, backends), so that no table lists them."""

import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

from m2f_batch.errors import RunError

_T = TypeVar("_T")


def modules_of(package: str, *needed: str) -> dict[str, ModuleType]:
    """Import each file of a package. Returns the modules by the names of their files, in this order.

    Raises RunError, which names the file, where it cannot be imported or lacks one of the ``needed`` names.

    >>> [*modules_of("m2f_batch.datasets.lint")][:2]
    ['command', 'copies']
    """
    found = {name: _imported(package, name) for name in _files(package)}
    for name, module in found.items():
        if lacking := [each for each in needed if not hasattr(module, each)]:
            wanted = f"each file of this folder must define {', '.join(needed)}"
            raise RunError(f"{_path(package, name)} defines no {lacking[0]}, but {wanted}")
    return found


def members_of(package: str, attribute: str, kind: type[_T]) -> dict[str, _T]:
    """Return the ``attribute`` of each file of a package by the file's name.

    Raises RunError, which names the file, where it cannot be imported or defines no ``kind``.
    """
    found: dict[str, _T] = {}
    for name, module in modules_of(package).items():
        member = getattr(module, attribute, None)
        if not isinstance(member, kind):
            wanted = f"must define {attribute} = {kind.__name__}(...)"
            raise RunError(f"{_path(package, name)}: {attribute} is {member!r}, but each file of this folder {wanted}")
        found[name] = member
    return found


def _imported(package: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{package}.{name}")
    except RunError:  # of another folder, which names its file
        raise
    except Exception as error:
        raise RunError(f"{_path(package, name)} cannot be imported ({type(error).__name__}: {error})") from error


def _path(package: str, name: str) -> str:
    return f"{package.removeprefix('m2f_batch.').replace('.', '/')}/{name}.py"


def _files(package: str) -> list[str]:
    folder = importlib.import_module(package)
    return sorted(found.name for found in pkgutil.iter_modules(folder.__path__) if not found.ispkg)
