"""What tests do to the labelling of units, from outside: note each one that is done, and make it last.

A copy of this file as ``sitecustomize.py`` on the PYTHONPATH of Ray's workers wraps ``label_unit`` of the stages
as soon as it is imported. The folder that CHAOS_HOOK names holds ``seconds_per_image`` (slept by each unit: runs that
last without taking CPUs), read anew for each unit, and gets ``begun.txt`` and ``labelled.txt``: a line per unit that
was begun, and that was labelled to its end, with its name and the process.
"""

import importlib.util
import os
import shutil
import sys
import time
from collections import Counter
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

WRAPPED = "m2f_batch.flow.unit.stages"


class Hook:
    """The folder of a hook, seen by the test that uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "python").mkdir(parents=True)
        shutil.copy(__file__, folder / "python" / "sitecustomize.py")
        self.begin(0.0)

    @property
    def variables(self) -> dict[str, str]:
        """What the environment of the workers needs."""
        paths = [str(self.folder / "python"), os.environ.get("PYTHONPATH", "")]
        return {"CHAOS_HOOK": str(self.folder), "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def begin(self, seconds_per_image: float) -> None:
        """Forget what was labelled; from now on each unit lasts so much longer."""
        for name in ("begun", "labelled"):
            (self.folder / f"{name}.txt").write_text("")
        self.pace(seconds_per_image)

    def pace(self, seconds_per_image: float) -> None:
        """From now on each unit lasts so much longer; infinity holds all until the next call."""
        temporary = self.folder / "new"
        temporary.write_text(str(seconds_per_image))
        temporary.replace(self.folder / "seconds_per_image")

    def lines(self, name: str = "labelled") -> list[tuple[str, int]]:
        """The units that were labelled (or ``begun``), in order, each with the process that did."""
        pairs = (line.split() for line in (self.folder / f"{name}.txt").read_text().splitlines())
        return [(unit, int(pid)) for unit, pid in pairs]

    def labelled(self) -> Counter[str]:
        """How often each unit was labelled, by its name."""
        return Counter(unit for unit, _ in self.lines())


class _Finder:
    """Finds the wrapped module as everyone does, and has ``label_unit`` replaced once it is loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != WRAPPED:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        assert spec is not None
        load = spec.loader.exec_module  # type: ignore[union-attr]

        def load_and_wrap(module: Any) -> None:
            load(module)
            module.label_unit = _wrapped(module.label_unit, Path(os.environ["CHAOS_HOOK"]))

        spec.loader.exec_module = load_and_wrap  # type: ignore[union-attr,method-assign]
        return spec


def _wrapped(label_unit: Any, folder: Path) -> Any:
    def note(name: str, table: Any) -> None:
        with open(folder / f"{name}.txt", "ab", buffering=0) as file:
            file.write(f"{table['unit'][0].as_py()} {os.getpid()}\n".encode())

    def label_and_note(table: Any, *arguments: Any, **options: Any) -> Any:
        note("begun", table)
        while (seconds := float((folder / "seconds_per_image").read_text())) == float("inf"):
            time.sleep(0.1)
        time.sleep(seconds * len(table["images"][0]))
        labelled = label_unit(table, *arguments, **options)
        note("labelled", table)
        return labelled

    return label_and_note


if __name__ == "sitecustomize" and "CHAOS_HOOK" in os.environ:
    sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
