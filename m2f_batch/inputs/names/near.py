"""Finds which names of different tools mean one image, step by step from what is written to what may be meant.

Windows writes backslashes, web tools percent-encode (some of them twice) or give URLs, macOS decomposes letters,
converters change the extension, Label Studio puts eight digits before the name, and Roboflow a digest behind it.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import unquote

_PLACE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*/?")
_LOCAL_FILES = "/data/local-files/?d="  # Label Studio's, before the path of a file that it serves
_PREFIX = re.compile(r"(^|/)[0-9a-f]{8}[-_](?=[^/]+$)")
_EXPORTED = re.compile(r"(?<=[^/])_(jpe?g|png|bmp|webp|tiff?)\.rf\.[0-9a-f]+$", re.IGNORECASE)


def plain(name: str) -> str:
    r"""Returns a name without what only its writer's system put into it.

    >>> plain("val\\a%2520b.jpg"), plain("https://host/x/a.jpg?size=2"), plain("/data/local-files/?d=x/a.jpg")
    ('val/a b.jpg', 'x/a.jpg', 'x/a.jpg')
    """
    name = name.rpartition(_LOCAL_FILES)[2]
    place = _PLACE.match(name)
    if place:
        name = name[place.end() :].partition("?")[0].partition("#")[0]
    return unicodedata.normalize("NFC", unquote(unquote(name.replace("\\", "/"))))


def without_extension(name: str) -> str:
    """Returns ``plain`` in lower case, and without the last extension.

    >>> without_extension("a/B.b.JPG")
    'a/b.b'
    """
    folder, slash, last = plain(name).casefold().rpartition("/")
    return folder + slash + (last.rpartition(".")[0] or last)


def without_marks(path: str) -> str:
    """Drops what Label Studio puts before the last part of a path without extension, and Roboflow behind it.

    >>> without_marks("upload/1/a1b2c3d4-street"), without_marks("street_jpg.rf.0123abcd")
    ('upload/1/street', 'street')
    """
    return _EXPORTED.sub("", _PREFIX.sub(r"\1", path))


# from what is as good as the same to what is meant most likely
SPELLINGS: tuple[Callable[[str], str], ...] = (
    plain,
    lambda name: plain(name).casefold(),
    without_extension,
    lambda name: without_marks(without_extension(name)),
)


def near_pairs(left: Iterable[str], right: Iterable[str]) -> dict[str, str]:
    r"""Pairs names of two lists that are spellings of one name, each at most once. Where two may be meant, neither is.

    Folders tell names apart that end alike.

    >>> near_pairs(["/in/a.png", "/in/b.png"], ["val\\a.png", "b.jpg", "c.jpg"])
    {'/in/a.png': 'val\\a.png', '/in/b.png': 'b.jpg'}
    """
    lists = ([*dict.fromkeys(left)], [*dict.fromkeys(right)])
    found: dict[str, str] = {}
    taken: set[str] = set()
    for spell in SPELLINGS:
        mine, theirs = (_by_last_part({name: spell(name) for name in some}) for some in lists)
        for last in mine.keys() & theirs.keys():
            for one, other in _one_to_one(mine[last], theirs[last]):
                if one not in found and other not in taken:
                    found[one] = other
                    taken.add(other)
    return {name: found[name] for name in lists[0] if name in found}


def _by_last_part(spelled: dict[str, str]) -> dict[str, dict[str, str]]:
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for name, spelling in spelled.items():
        groups[spelling.rpartition("/")[2]][name] = spelling
    return groups


def _one_to_one(mine: dict[str, str], theirs: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yields pairs of names with one last part: the only two, else those whose longer ends only they have."""
    if len(mine) == len(theirs) == 1:
        yield next(iter(mine)), next(iter(theirs))
        return
    for depth in range(max(spelling.count("/") for spelling in mine.values()) + 1, 1, -1):
        ends = [_by_end(some, depth) for some in (mine, theirs)]
        for end in ends[0].keys() & ends[1].keys():
            if len(ends[0][end]) == len(ends[1][end]) == 1:
                yield ends[0][end][0], ends[1][end][0]


def _by_end(some: dict[str, str], depth: int) -> dict[str, list[str]]:
    ends: dict[str, list[str]] = defaultdict(list)
    for name, spelling in some.items():
        if spelling.count("/") + 1 >= depth:
            ends["/".join(spelling.rsplit("/", depth)[-depth:])].append(name)
    return ends
