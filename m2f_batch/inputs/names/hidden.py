"""Holds the one rule for hidden names, in INPUT and in the folders of a dataset."""

# folders that programs put beside photographs: thumbnails, deleted files and snapshots (all of them once more) of
# network disks, what macOS adds to zips, what Windows and Linux have on disks
_NAMES = frozenset(
    {"@eadir", "@recycle", "#recycle", "@recently-snapshot", "#snapshot", "__macosx"}
    | {"$recycle.bin", "system volume information", "lost+found"}
)


def is_hidden(path: str) -> bool:
    """Tells whether a part of a path below the named folder is hidden: it begins with a dot, or is such a folder.

    >>> is_hidden(".ipynb_checkpoints/a.jpg"), is_hidden("2024/@eaDir/a.jpg/THUMB.jpg"), is_hidden("a.b/c.jpg")
    (True, True, False)
    >>> is_hidden("#snapshot/GMT-2026.01.01/a.jpg"), is_hidden("System Volume Information/a.jpg"), is_hidden("#1/a.jpg")
    (True, True, False)
    """
    return any(part.startswith(".") or part.casefold() in _NAMES for part in path.split("/"))
