"""Which environment variables travel with a job to the nodes of a cluster, where they stand in its metadata."""

import os
from collections.abc import Mapping

# endpoint, region, ways of asking, time-outs; keys belong to the nodes
FORWARDED = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "AWS_VIRTUAL_HOSTING",
    "AWS_REQUEST_PAYER",
    "AWS_NO_SIGN_REQUEST",
    "HF_HUB_OFFLINE",
    "M2F_BATCH_S3_TIMEOUT",
)


def forwarded(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Those of an environment's variables that travel.

    >>> forwarded({"AWS_REGION": "eu-central-1", "AWS_SECRET_ACCESS_KEY": "no"})
    {'AWS_REGION': 'eu-central-1'}
    """
    return {name: environ[name] for name in FORWARDED if name in environ}
