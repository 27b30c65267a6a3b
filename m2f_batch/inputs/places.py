"""Checks INPUT and OUTPUT by their names alone. Imports no pyarrow, because ``submit`` checks them without it."""

import os
import re
from collections.abc import Callable

from m2f_batch.errors import UsageError
from m2f_batch.storage import uris


def check_output(input_uri: str, output_uri: str, *, is_elsewhere: bool = False) -> None:
    """Raises UsageError if OUTPUT is INPUT or lies inside it, where a next run would list our own files.

    Places of another machine (``is_elsewhere``) are compared as they are spelled, because its links are not known here.
    """
    folder, pattern = uris.normalize(input_uri), ""
    if uris.has_glob(input_uri) and not os.path.exists(folder):
        folder, pattern = uris.split_glob(input_uri)
    try:
        target = uris.normalize(output_uri)
    except UsageError as error:
        raise UsageError.about("output.uri", error) from error
    if pattern:
        # a glob takes only what it matches: it must not match what a run writes
        matches = glob_matcher(pattern)
        written = (uris.below(folder, f"{target}/{name}") for name in ("run.json", "annotations/0.parquet"))
        is_inside = target == folder or any(matches(name) for name in written)
    else:
        is_inside = uris.is_inside(target, folder, is_elsewhere=is_elsewhere)
    if is_inside:
        raise UsageError(
            f"is, or lies inside, input.uri {input_uri!r}",
            field="output.uri",
            value=output_uri,
            hint="choose another place",
        )


def check_listable(input_uri: str) -> None:
    """Raises UsageError if INPUT is a folder of the web, which has no listing.

    >>> check_listable("https://host/list.csv")
    """
    if uris.is_web(input_uri) and input_uri.endswith("/"):
        raise UsageError(
            ": the web cannot be listed", field="input.uri", value=input_uri, hint="name the images in a manifest"
        )


def glob_matcher(pattern: str) -> Callable[[str], object]:
    """Makes the function that tells the paths below a glob's folder that match. Raises UsageError for what is none."""
    from fsspec.utils import glob_translate

    try:
        return re.compile(glob_translate(pattern)).match
    except (ValueError, re.error) as error:
        problem = f"is no valid glob: '**' stands alone between slashes ({error})"
        raise UsageError(problem, field="input.uri", value=pattern) from error
