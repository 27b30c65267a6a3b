"""Every trap of transformers is still there, and ours is what the original defines, on tiny logits.

When one fails because ``is_there`` is false, transformers has mended it: set ``is_mended``, run
``python -m benchmarks.traps.traps`` and correct docs/guides/models.md.
"""

from collections.abc import Iterator

import pytest

from benchmarks.traps.trap import Trap
from benchmarks.traps.traps import all_traps

FAMILIES = {
    *("mask2former", "maskformer", "oneformer", "eomt", "eomt_dinov3", "rf_detr"),
    *("segformer", "upernet", "beit", "mobilevit", "mobilevitv2"),
}


@pytest.fixture(scope="module")
def traps() -> Iterator[tuple[Trap, ...]]:
    with all_traps() as found:
        yield found


def test_each_is_there_and_ours_is_the_definition(traps: tuple[Trap, ...]) -> None:
    for trap in traps:
        shown = trap.show()
        assert shown.is_there != trap.is_mended, f"{trap.family}, {trap.says}: {shown.theirs}"
        assert shown.is_ours_defined is not False, f"{trap.family}, {trap.says}: {shown.ours}"
        assert (shown.is_ours_defined is None) == shown.ours.startswith("nothing to execute"), trap.says


def test_every_family_has_one(traps: tuple[Trap, ...]) -> None:
    assert {name.strip() for trap in traps for name in trap.family.split(",")} >= FAMILIES
