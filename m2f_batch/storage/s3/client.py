"""Makes clients of S3 by the job's settings, the user's own files and variables, and the needs of other servers."""

import os
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from m2f_batch.config.storage import S3Config
from m2f_batch.errors import UsageError
from m2f_batch.storage.retries import count_retry
from m2f_batch.storage.s3 import columns
from m2f_batch.storage.s3 import settings as s3_settings
from m2f_batch.storage.store import StoreUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


READ_TIMEOUT = "M2F_BATCH_S3_TIMEOUT"  # seconds without a byte from the server


def new_client(bucket: str = "") -> "S3Client":
    """Makes a client for a bucket by ``storage.s3``, the standard AWS variables, and our M2F_BATCH_S3_TIMEOUT.

    That is how many seconds a server may send no byte, before or in an answer, until the request is made again: 20 by
    default. S3 answers within a second, a Ceph that loses a disk within some ten. Waiting longer only eats the budget
    of ``Retries``, which are the main way of trying again. The client itself tries twice, or AWS_MAX_ATTEMPTS times.

    Raises UsageError, StoreUnavailable for variables that are wrong.
    """
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    settings = s3_settings.current()
    try:
        core = botocore.session.Session()  # of its own: the default one is not safe
        core.register_component("data_loader", _service_data(core.get_config_variable("data_path")))
        config = Config(
            retries={"mode": "standard", "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS") or 2)},
            connect_timeout=10,  # seconds
            read_timeout=_read_timeout(),
            max_pool_connections=64,
            **_options(core, settings, bucket),
        )
        client = boto3.session.Session(botocore_session=core).client("s3", config=config)
    except ValueError as error:
        wanted = f"AWS_ENDPOINT_URL must be like https://host:port, AWS_MAX_ATTEMPTS and {READ_TIMEOUT} numbers above 0"
        raise UsageError(wanted) from error
    except BotoCoreError as error:
        raise StoreUnavailable(f"S3: {type(error).__name__}: check the AWS variables") from error
    client.meta.events.register("request-created.s3", _count_retry)
    columns.register(client)
    if settings.request_payer is not None and not s3_settings.is_anonymous(bucket):
        client.meta.events.register("before-parameter-build.s3", partial(_name_payer, settings.request_payer))
    return client


@cache
def _service_data(path: str | None) -> Any:
    """Returns botocore's loader of what services are like, which all clients share.

    A session's own would read and parse 2 MB of JSON and list 800 folders anew: most of the CPU of making a client.
    """
    from botocore.loaders import create_loader

    return create_loader(path)


def _options(core: Any, settings: S3Config, bucket: str) -> dict[str, Any]:
    """Returns what the settings change in a client's config, where the user's own files and variables say nothing."""
    from botocore import UNSIGNED
    from botocore.configprovider import ConfiguredEndpointProvider

    profile = core.get_scoped_config()
    options: dict[str, Any] = {}
    if settings.addressing_style is not None:
        options["s3"] = {"addressing_style": settings.addressing_style}
    if s3_settings.is_anonymous(bucket):
        options["signature_version"] = UNSIGNED
    said = os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION") or profile.get("request_checksum_calculation")
    if not said and ConfiguredEndpointProvider(core.full_config, profile, "s3").provide():
        options["request_checksum_calculation"] = "when_required"  # older servers refuse trailing checksums
    return options


def _name_payer(payer: str, params: dict[str, Any], model: Any, **_: Any) -> None:
    """Lets every request that can say who pays say it."""
    if "RequestPayer" in model.input_shape.members:
        params["RequestPayer"] = payer


def _read_timeout() -> float:
    seconds = float(os.environ.get(READ_TIMEOUT) or 20)
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{READ_TIMEOUT}={seconds}")
    return seconds


def _count_retry(request: Any, **_: Any) -> None:
    """Counts the client's own retries. Every attempt at a request is made anew, whatever became of the one before."""
    if request.context.get("retries", {}).get("attempt", 1) > 1:
        count_retry()
