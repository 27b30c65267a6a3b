"""Fetches the bytes of a listed image, or the reason why there are none."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from m2f_batch.errors import ImageError
from m2f_batch.processes import in_threads
from m2f_batch.records import ImageRef
from m2f_batch.storage.allow import Astray, NotAllowed
from m2f_batch.storage.places import open_store
from m2f_batch.storage.retries import Retries as Retries  # also imported from here
from m2f_batch.storage.s3.faults import Refused
from m2f_batch.storage.store import Denied, NotFound, ObjectError, StoreUnavailable
from m2f_batch.storage.uris import shown


def fetch(ref: ImageRef, retries: Retries | None = None) -> bytes:
    """Returns the bytes of exactly the version that was listed.

    Raises ImageError (stage ``fetch``: ``NotFound``, ``AccessDenied``, ``NotAllowed``, ``Unreadable``, ``Changed``) for
    what stays wrong with this one image. Its message is the same in every run, because it ends in a row. Raises
    TransientError when the retries are spent, and StoreUnavailable for what is wrong with all images.
    """
    with _of_one_image(ref):
        return (retries or Retries()).run(lambda: _read(ref))


def fetch_now(uri: str, retries: Retries | None = None) -> tuple[ImageRef, bytes]:
    """Returns an image that nobody has listed, as it is now: what it is, and its bytes.

    ``uri`` is in the one spelling. Raises as ``fetch``.
    """
    with _of_one_image(ImageRef(uri, "")):
        data, entry = (retries or Retries()).run(lambda: open_store(uri).read_entry(uri))
    return ImageRef(uri, entry.version), data


@contextmanager
def _of_one_image(ref: ImageRef) -> Iterator[None]:
    """Raises what is wrong with one image as its ImageError."""
    try:
        yield
    except NotFound as error:
        raise ImageError("fetch", "NotFound", str(error)) from error
    except Denied as error:
        if isinstance(error, Refused) and ref.version:  # it could be looked at when it was listed
            what = "access denied, and so is the bucket by now: have the keys expired?"
            raise StoreUnavailable(f"{shown(ref.uri)}: {what}") from error
        raise ImageError("fetch", "AccessDenied", str(error)) from error
    except Astray as error:
        raise ImageError("fetch", "NotAllowed", str(error)) from error
    except NotAllowed as error:
        raise ImageError("fetch", "NotAllowed", f"{shown(ref.uri)}: lies outside the allow-list") from error
    except ObjectError as error:
        raise ImageError("fetch", "Unreadable", str(error)) from error


def fetch_many(
    refs: Iterable[ImageRef], threads: int = 16, retries: Retries | None = None
) -> Iterator[tuple[ImageRef, bytes | ImageError]]:
    """Yields ``fetch`` of each, in order, from threads that hold at most two images each.

    Raises TransientError and StoreUnavailable as ``fetch`` does, at the image's turn.
    """
    outcome = partial(_outcome, retries=retries or Retries())
    # a failed unit must not wait for its others' retries
    return in_threads(outcome, refs, threads, 2 * threads, waits=False, name="fetch")


def _outcome(ref: ImageRef, retries: Retries) -> bytes | ImageError:
    try:
        return fetch(ref, retries)
    except ImageError as error:
        return error


def _read(ref: ImageRef) -> bytes:
    store = open_store(ref.uri)
    data, entry = store.read_entry(ref.uri)
    if not store.is_version(entry, ref.version):
        what = "has changed" if ref.version else "has appeared"
        raise ImageError("fetch", "Changed", f"{shown(ref.uri)}: {what} since it was listed")
    return data
