"""What to write into config.json where its label names do not say which output of the model is which."""

import json
from typing import Any


def label_lines(labels: Any, known: int | None) -> str:
    """The lines ``id2label`` and ``label2id`` for a config.json whose ``labels`` are not 0, 1, 2, ...

    ``known`` is how many labels the weights know, if that can be had. Ids that begin with 1 move down by one where
    there are as many names as labels; with one name less, label 0 has no name of its own. Names that nobody knows are
    left to be filled in.
    """
    names = _by_id(labels)
    if names and min(names) == 1 and sorted(names) == list(range(1, len(names) + 1)) and known in (None, len(names)):
        names = {i - 1: name for i, name in names.items()}
    count = known or max(names, default=-1) + 1
    settled = {str(i): names.get(i, f"NAME OF LABEL {i}") for i in range(count)}
    ids = {name: int(i) for i, name in settled.items()}
    return f'  "id2label": {json.dumps(settled)},\n  "label2id": {json.dumps(ids)}'


def _by_id(labels: Any) -> dict[int, str]:
    """Names by whole number, as far as there are any."""
    pairs = labels.items() if isinstance(labels, dict) else enumerate(labels) if isinstance(labels, list) else ()
    return {int(i): name for i, name in pairs if str(i).isdecimal() and len(str(i)) < 6 and isinstance(name, str)}
