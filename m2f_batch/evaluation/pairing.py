"""Pairs rows with annotated images, where both may have been listed in other places."""

from collections import defaultdict
from collections.abc import Callable, Iterable

from m2f_batch.errors import UsageError
from m2f_batch.inputs.names.near import near_pairs
from m2f_batch.storage import uris


def pair_by_uri(
    rows: Iterable[str], truths: Iterable[str], *, row_path: Callable[[str], str], folder: str | None
) -> dict[str, str]:
    """Map URIs of rows to URIs of annotated images, each at most once. Neither list holds a URI twice.

    The same uri goes first, then the same path: ``row_path`` of a row, below ``folder`` of an image. Then a file name
    that one of each has, then the longest common end of their paths. Raises UsageError where two may be meant. What is
    left, and has no file name of the other list, is matched by names that are spelled otherwise
    (``inputs/names/near.py``).

    >>> pair_by_uri(["/in/a/1.png", "/in/b/1.png"], ["/gt/b/1.png"], row_path=str, folder=None)
    {'/in/b/1.png': '/gt/b/1.png'}
    """
    left, wanted = dict.fromkeys(rows), dict.fromkeys(truths)
    found = {uri: uri for uri in left if uri in wanted}
    if folder is not None:
        below = {uris.below(folder, uri): uri for uri in wanted if uri not in found}
        found |= {uri: below[row_path(uri)] for uri in left if uri not in found and row_path(uri) in below}
    mine, theirs = _by_end(left, 1), _by_end(wanted, 1)
    alike = [name for name in mine.keys() & theirs.keys() if len(mine[name]) > 1 or len(theirs[name]) > 1]
    found |= {mine[name][0]: theirs[name][0] for name in (mine.keys() & theirs.keys()).difference(alike)}
    for name in sorted(alike):
        _by_longest_end(mine[name], theirs[name], found)
    paired = {*found.values()}
    rows_left = [uri for uri in left if uri not in found and _end(uri, 1) not in theirs]
    truths_left = [uri for uri in wanted if uri not in paired and _end(uri, 1) not in mine]
    return found | near_pairs(rows_left, truths_left)


def _by_longest_end(rows: list[str], truths: list[str], found: dict[str, str]) -> None:
    """Pair rows and images of one file name by their longest common end, and add to ``found``."""
    for depth in range(max(uri.count("/") for uri in rows) + 1, 0, -1):
        matched = {found[uri] for uri in rows if uri in found}
        if depth == 1 and matched:
            return  # folders tell them apart, and those that are left are other images
        mine = _by_end((uri for uri in rows if uri not in found), depth)
        theirs = _by_end((uri for uri in truths if uri not in matched), depth)
        for end in sorted(mine.keys() & theirs.keys()):
            if len(mine[end]) > 1 or len(theirs[end]) > 1:
                raise _ambiguous(mine[end], theirs[end])
            found[mine[end][0]] = theirs[end][0]


def _by_end(listed: Iterable[str], depth: int) -> dict[str, list[str]]:
    ends: dict[str, list[str]] = defaultdict(list)
    for uri in listed:
        if uri.count("/") + 1 >= depth:
            ends[_end(uri, depth)].append(uri)
    return ends


def _end(uri: str, depth: int) -> str:
    return "/".join(uri.rsplit("/", depth)[-depth:])


def _ambiguous(rows: list[str], truths: list[str]) -> UsageError:
    if len(truths) > 1:
        text = f"{rows[0]!r} may be its image {truths[0]!r} or {truths[1]!r}"
    else:
        text = f"its image {truths[0]!r} may be {rows[0]!r} or {rows[1]!r}"
    return UsageError(
        text, field="--ground-truth", hint="give --images, the folder from which paths are those of the run"
    )
