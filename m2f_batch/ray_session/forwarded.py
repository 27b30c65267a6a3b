"""Chooses the environment variables that travel with a job to the nodes of a cluster, where its metadata shows them."""

import os
from collections.abc import Mapping

from m2f_batch.backends import all_backends


def forwarded_names() -> tuple[str, ...]:
    """Returns the names of the variables: endpoints, regions, ways of asking, time-outs. Keys belong to the nodes."""
    return tuple(name for backend in all_backends() for name in backend.forwarded)


def forwarded(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Returns those of an environment's variables that travel.

    >>> forwarded({"AWS_REGION": "eu-central-1", "AWS_SECRET_ACCESS_KEY": "no"})
    {'AWS_REGION': 'eu-central-1'}
    """
    return {name: environ[name] for name in forwarded_names() if name in environ}


def endpoints(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns those of them that say which servers are asked.

    >>> endpoints({"AWS_REGION": "eu-central-1", "AWS_ENDPOINT_URL": "https://minio:9000"})
    {'AWS_ENDPOINT_URL': 'https://minio:9000'}
    """
    names = (name for backend in all_backends() for name in backend.endpoints)
    return {name: environ[name] for name in names if name in environ}
