"""The one rule for hidden names, in INPUT and in the folders of a dataset."""

# folders that programs put beside photographs: thumbnails and deleted files of network disks, what macOS adds to zips
_NAMES = frozenset({"@eadir", "@recycle", "#recycle", "$recycle.bin", "__macosx", "lost+found"})


def is_hidden(path: str) -> bool:
    """Whether a part of a path below the folder that was named is hidden: it begins with a dot, or is such a folder.

    >>> is_hidden(".ipynb_checkpoints/a.jpg"), is_hidden("2024/@eaDir/a.jpg/THUMB.jpg"), is_hidden("a.b/c.jpg")
    (True, True, False)
    """
    return any(part.startswith(".") or part.casefold() in _NAMES for part in path.split("/"))
