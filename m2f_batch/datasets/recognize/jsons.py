"""Tells the kinds of JSON that are read from each other, and from any other. Imports nothing heavy."""

from typing import Any


def coco_kind(document: Any) -> str | None:
    """Says whether a JSON looks like COCO ``instances`` or ``panoptic``, or gives None for anything else.

    A labelme JSON may have ``images``, too.
    """
    if not isinstance(document, dict) or "images" not in document or is_labelme(document):
        return None
    entries = document.get("annotations")
    entries = [*entries.values()] if isinstance(entries, dict) else entries
    first = entries[0] if isinstance(entries, list) and entries else None
    return "panoptic" if isinstance(first, dict) and "segments_info" in first else "instances"


def is_labelme(document: Any) -> bool:
    """Says whether a JSON looks like labelme's."""
    return isinstance(document, dict) and {"imagePath", "shapes"} <= document.keys()
