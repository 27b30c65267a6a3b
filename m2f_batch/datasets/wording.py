"""Messages of shared modules in the words of a command: its own options where they name keys of ``finetune``."""

import re
from collections.abc import Mapping

_CONFIG_TOO = re.compile(r" \(data\.format=[\w-]+\)")


def in_words_of(options: Mapping[str, str], message: str) -> str:
    """Puts the option for each key of ``options`` in a message. Longer keys come before those that they begin with.

    >>> in_words_of({"data.train": "SRC"}, "data.train: 'a' looks like labelme: --format labelme (data.format=labelme)")
    "SRC: 'a' looks like labelme: --format labelme"
    """
    message = _CONFIG_TOO.sub("", message)
    for theirs in sorted(options, key=len, reverse=True):
        message = message.replace(theirs, options[theirs])
    return message
