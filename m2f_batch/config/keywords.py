"""Names the keys of a config as arguments in Python."""

from collections import Counter

from pydantic import BaseModel

from m2f_batch.config.loading import fields_of


def keywords_of(kind: type[BaseModel], **own: str) -> dict[str, str]:
    """Return arguments by dotted key: the last part of each key, where no other key of the config has the same.

    ``own`` are arguments with a name of their own, and their keys.

    >>> from m2f_batch.config.segment import SegmentConfig
    >>> names = keywords_of(SegmentConfig, images="input.uri")
    >>> names["postprocess.score_threshold"], names["input.uri"], names.get("output.uri")
    ('score_threshold', 'images', None)
    """
    keys = [key for key, _ in fields_of(kind)]
    last = {key: key.rpartition(".")[2] for key in keys}
    count = Counter(last.values())
    unique = {key: name for key, name in last.items() if count[name] == 1 and name not in own}
    return {**unique, **{key: name for name, key in own.items()}}
