"""Finds the known name that a mistyped one was most likely meant to be."""

import difflib
from collections.abc import Iterable, Mapping

# difflib's ratios of two names, from 0 to 1
LIKENESS = 0.6  # from which one may be meant by the other
SPELLING = 0.8  # from which one is the other


def near_misses(word: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Return up to ``most`` of the ``known`` names that resemble ``word``, the nearest first.

    A word of up to three letters has to resemble more, because two of them are in many names. The beginning of a name
    always means it.

    >>> near_misses("segmnt", ["segment", "submit"]), near_misses("pan", ["instance", "panoptic"])
    (['segment'], ['panoptic'])
    >>> near_misses("foo", ["follow"])
    []
    """
    known = list(known)
    if len(word) > 2 and (begun := [name for name in known if name.startswith(word)]):
        return begun[:most]
    return difflib.get_close_matches(word, known, n=most, cutoff=LIKENESS if len(word) > 3 else 0.7)


def misspelled(word: str, known: Iterable[str]) -> list[str]:
    """Return those of many ``known`` names that ``word`` is but for a letter or two, the nearest first.

    >>> misspelled("batchsize", ["batch_size", "lease_seconds"]), misspelled("classes", ["batch_size", "lease_seconds"])
    (['batch_size'], [])
    """
    return difflib.get_close_matches(word, list(known), cutoff=SPELLING)


def did_you_mean(word: str, known: Iterable[str] | Mapping[str, str]) -> str:
    """Return the question after the name that ``word`` resembles, or nothing where it resembles none.

    A mapping says by which longer name each known one is shown.

    >>> did_you_mean("thresold", {"threshold": "postprocess.threshold"}), did_you_mean("x", ["threshold"])
    ('did you mean postprocess.threshold?', '')
    """
    names = known if isinstance(known, Mapping) else {name: name for name in known}
    near = near_misses(word, names)
    return f"did you mean {names[near[0]]}?" if near else ""
