"""Crashes in the processes of a real run, put there from outside: production code knows nothing of them.

A copy of this file as ``sitecustomize.py`` on the PYTHONPATH of a run's processes (a local Ray inherits it, and so do
the child processes of ``flow.crashes.isolated``) patches ``vision.pixels.preprocess`` as soon as it is imported:

- bytes with the marker crash the process that decodes them (SIGSEGV);
- an image that is all gray crashes the process that labels it (SIGABRT).

Each crash leaves a line in ``deaths.txt`` of the folder that POISON_HOOK names.
"""

import importlib.util
import os
import shutil
import signal
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

PATCHED = "m2f_batch.vision.pixels.preprocess"
MARKER = b"poison"


def installed(folder: Path) -> dict[str, str]:
    """The variables that a run's processes need."""
    (folder / "python").mkdir(parents=True)
    shutil.copy(__file__, folder / "python" / "sitecustomize.py")
    paths = [str(folder / "python"), os.environ.get("PYTHONPATH", "")]
    return {"POISON_HOOK": str(folder), "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def deaths(folder: Path) -> list[str]:
    """What each death was of, in their order."""
    log = folder / "deaths.txt"
    return log.read_text().split() if log.exists() else []


class _Finder:
    """Finds the module as everyone does, and patches it once it is loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != PATCHED:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        assert spec is not None
        load = spec.loader.exec_module  # type: ignore[union-attr]

        def load_and_patch(module: Any) -> None:
            load(module)
            _patch(module)

        spec.loader.exec_module = load_and_patch  # type: ignore[union-attr,method-assign]
        return spec


def _patch(module: Any) -> None:
    prepare_image, pixel_values = module.prepare_image, module.pixel_values

    def poisoned_prepare_image(image: Any, *arguments: Any) -> Any:
        if isinstance(image, bytes) and MARKER in image:
            _die("decode", signal.SIGSEGV)
        return prepare_image(image, *arguments)

    def poisoned_pixel_values(contents: Any, *arguments: Any) -> Any:
        if any((content == 128).all() for content in contents):
            _die("label", signal.SIGABRT)
        return pixel_values(contents, *arguments)

    module.prepare_image, module.pixel_values = poisoned_prepare_image, poisoned_pixel_values


def _die(stage: str, number: int) -> None:
    with open(Path(os.environ["POISON_HOOK"], "deaths.txt"), "ab", buffering=0) as file:
        file.write(f"{stage}\n".encode())
    os.kill(os.getpid(), number)
    signal.pause()


if __name__ == "sitecustomize" and "POISON_HOOK" in os.environ:
    sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
