"""Finds the same image under two names: by its bytes or by its look, on one split of the split or on both."""

from collections.abc import Iterator, Sequence

import numpy as np

from m2f_batch.datasets.findings import Finding
from m2f_batch.datasets.lint.images import Seen
from m2f_batch.datasets.lint.near_copies import Print, are_alike, near_pairs

_MOST_LOOKS = 20  # at images of one hash: thousands may have it where images are nearly empty


def copy_findings(uris: Sequence[str], in_val: Sequence[bool], seen: Sequence[Seen | None]) -> Iterator[Finding]:
    """Each image at most once per kind, with one that it is a copy of. Those to train on come first."""
    first: tuple[dict[bytes, int], dict[bytes, int]] = ({}, {})
    others: list[int] = []
    for number, one in enumerate(seen):
        if one is None:
            continue
        split = in_val[number]
        if one.digest in first[split]:
            other = uris[first[split][one.digest]]
            text = "is listed twice" if other == uris[number] else f"has the same bytes as {other}"
            yield Finding("identical-images", uris[number], text)
        elif split and one.digest in first[0]:
            yield Finding(
                "leaked-image", uris[number], f"is trained on as {uris[first[0][one.digest]]}: the same bytes"
            )
        else:
            others.append(number)
        first[split].setdefault(one.digest, number)
    yield from _near(others, uris, in_val, seen)


def _near(
    numbers: Sequence[int], uris: Sequence[str], in_val: Sequence[bool], seen: Sequence[Seen | None]
) -> Iterator[Finding]:
    """Of images whose bytes are all different those that look alike."""
    prints = {number: one.print for number in numbers if (one := seen[number]) is not None}
    bits = np.array(sorted({known.bits for known in prints.values()}), np.uint64)
    near = {value: [value] for value in bits.tolist()}
    for i, j in bits[near_pairs(bits)].tolist():
        near[i].append(j)
        near[j].append(i)
    members: tuple[dict[int, list[int]], dict[int, list[int]]] = ({}, {})

    def alike(number: int, split: bool) -> int | None:
        """Returns the first image before this one, on a split, that looks like it."""
        own = prints[number]
        found = (other for value in near[own.bits] for other in members[split].get(value, ())[:_MOST_LOOKS])
        return next((other for other in found if are_alike(own.small, prints[other].small)), None)

    for number, own in prints.items():
        leak = alike(number, False) if in_val[number] else None
        other = alike(number, bool(in_val[number]))
        if leak is not None:
            yield Finding(
                "leaked-image", uris[number], f"looks like {uris[leak]}, which is trained on{_bits(own, prints[leak])}"
            )
        if other is not None:
            yield Finding("similar-images", uris[number], f"looks like {uris[other]}{_bits(own, prints[other])}")
        members[in_val[number]].setdefault(own.bits, []).append(number)


def _bits(first: Print, second: Print) -> str:
    return f" ({(first.bits ^ second.bits).bit_count()} of 64 bits of their hashes differ)"
