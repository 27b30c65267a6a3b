"""Describes the kinds of stores (S3, Azure, HTTP, ...): their schemes, their opener, their variables and their secrets.

A kind is one file of ``storage/backends/`` that defines ``BACKEND``. It holds texts only. So ``messages``, which must
not import ``storage``, can mask the secrets of a store, and a command line loads no library of a store.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from m2f_batch.members import members_of

FOLDER = "m2f_batch.storage.backends"


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One kind of store.

    Attributes:
        schemes: Those of its URIs, in lower case; "" for paths.
        opener: ``module:function`` that takes a scheme and an authority and returns the ``Store``. It is called once
            per process for each of them and each value of ``settings``.
        settings: ``module:function`` whose hashable value says how the store is asked.
        name: The store in messages, where it can only be read.
        is_local: Its URIs are paths of this machine, percent-encoded.
        is_web: Its URIs are URLs: an authority is HOST or HOST:PORT, a path holds a query, and nothing is read unless
            an allow-list names the host.
        is_writable: Whether commands may write to it.
        ports: Of the web, the port of a scheme whose URL names none.
        authority: What a host or bucket must match as a whole, and what is said of one that does not, in this order.
            ``{scheme}`` in that is the scheme of the URI.
        misspelled: Other schemes that people write for the first of ``schemes``.
        hidden: Schemes that messages do not offer.
        forwarded: Environment variables that travel with a job to the nodes of a cluster, where they stand in its
            metadata: endpoints, regions, time-outs, never keys.
        endpoints: Those of ``forwarded`` that say which server is asked, so that another value is another job.
        secrets: Environment variables whose values are masked.
        secret_files: Environment variables that name a file whose text is masked.
        secret_files_in: A variable that names a folder, and a file in it whose text is masked.
        profiles: A variable that names a file of ``key = value`` lines, or else where the file is in a home. Values of
            ``profile_keys`` in it are masked.
        profile_keys: Keys of secrets in such files.
        secret_parts: A variable, and a pattern whose group is a secret in its value.
    """

    schemes: tuple[str, ...]
    opener: str
    settings: str = ""
    name: str = ""
    is_local: bool = False
    is_web: bool = False
    is_writable: bool = True
    ports: Mapping[str, int] = field(default_factory=dict)
    authority: tuple[tuple[str, str], ...] = ()
    misspelled: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    forwarded: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    secret_files: tuple[str, ...] = ()
    secret_files_in: tuple[tuple[str, str], ...] = ()
    profiles: tuple[tuple[str, str], ...] = ()
    profile_keys: tuple[str, ...] = ()
    secret_parts: tuple[tuple[str, str], ...] = ()


@cache
def all_backends() -> tuple[Backend, ...]:
    """Returns the ``BACKEND`` of each file of the folder, in the order of the files' names."""
    return tuple(members_of(FOLDER, "BACKEND", Backend).values())


@cache
def _by_scheme() -> dict[str, Backend]:
    return {scheme: backend for backend in all_backends() for scheme in backend.schemes}


def find_backend(scheme: str) -> Backend | None:
    """Returns the kind of store that a scheme names, or None. The scheme of a path is "".

    >>> find_backend("s3").opener, find_backend("").is_local, find_backend("ftp")
    ('m2f_batch.storage.s3.store:open_store', True, None)
    """
    return _by_scheme().get(scheme)


def is_web(scheme: str) -> bool:
    """Tells whether a scheme is one of the web.

    >>> is_web("https"), is_web("s3"), is_web("ftp")
    (True, False, False)
    """
    backend = _by_scheme().get(scheme)
    return backend is not None and backend.is_web


def has_buckets(scheme: str) -> bool:
    """Tells whether a scheme is one of object stores, where an authority is a bucket or a file system.

    >>> has_buckets("s3"), has_buckets("file"), has_buckets("https"), has_buckets("ftp")
    (True, False, False, False)
    """
    backend = _by_scheme().get(scheme)
    return backend is not None and not (backend.is_web or backend.is_local)


def port_of(scheme: str) -> int:
    """Returns the port of a URL of the web that names none.

    >>> port_of("https")
    443
    """
    return _by_scheme()[scheme].ports[scheme]


@cache
def load(reference: str) -> Callable[..., Any]:
    """Returns the function that ``module:function`` names, and imports its module."""
    module, _, name = reference.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function
