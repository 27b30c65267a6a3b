"""What transformers does otherwise than each original, with the same logits or pixels, beside what we do.

    python -m benchmarks.traps.traps [--quick]

Logits are those of drawn scenes, as a good model would give them, and of tiny models of random weights. ``--quick``
writes nothing. ``python -m benchmarks.pictures.traps`` draws three of them, and
``tests/integration/test_traps.py`` asks all of them again.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from benchmarks.lib.timing import parser, publish, table
from benchmarks.traps import models, pixels, queries, squares
from benchmarks.traps.trap import Trap

ORDER = (
    "mask2former",
    "maskformer",
    "oneformer",
    "eomt",
    "rf_detr",
    "segformer",
    "upernet",
    "beit",
    "mobilevit",
    "all",
)
NOTE = """*differs* is what lies between transformers and us. *definition* is what the original's own code does: a plain
writing of it in `tests/support/reference.py` on the same logits, where there is a rule to execute. Every line was
computed in this run, and in each of them ours is the definition, but where *ours* says "nothing to execute". *gone* are
traps of older versions.

Not in this table: RF-DETR's pixels (antialias is off in both), and the licenses of weights."""


@contextmanager
def all_traps() -> Iterator[tuple[Trap, ...]]:
    """All of them, family by family, while the files lie that they need."""
    disable_progress_bar()
    set_verbosity_error()
    with tempfile.TemporaryDirectory(prefix="m2f-bench-") as folder:
        found = (*queries.traps(Path(folder)), *squares.traps(), *pixels.traps(), *models.traps(Path(folder)))
        yield tuple(sorted(found, key=_place))


def _place(trap: Trap) -> int:
    return next(at for at, name in enumerate(ORDER) if trap.family.startswith(name))


def line_of(trap: Trap) -> dict[str, str]:
    """A line of the table. Raises AssertionError where ours is not the definition."""
    shown = trap.show()
    assert shown.is_ours_defined is not False, (
        f"{trap.family}, {trap.says}: ours is {shown.ours}, not {shown.definition}"
    )
    return {
        "family": trap.family,
        "task": trap.task,
        "trap": trap.says,
        "transformers": shown.theirs,
        "ours": shown.ours,
        "definition": shown.definition,
        "differs": shown.differs if shown.is_there else f"gone: {shown.differs}",
    }


def main() -> int:
    """Show all, print and write the table."""
    chosen = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    with all_traps() as traps:
        lines = [line_of(trap) for trap in traps]
    about = f"{len(lines)} traps, each with the same logits or pixels on both sides."
    publish("traps", "What transformers does otherwise", [about, table(lines), NOTE], threads=1, quick=chosen.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
