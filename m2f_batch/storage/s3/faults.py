"""Sorts failed S3 requests by what they are wrong for: one object, this moment, or everything."""

import hashlib
import re
from typing import Any

from m2f_batch.errors import TransientError
from m2f_batch.storage.s3 import settings
from m2f_batch.storage.store import Denied, NotFound, StoreUnavailable, Unreachable, Unreadable

_OF_ALL = {
    *("NoSuchBucket", "InvalidBucketName", "AllAccessDisabled", "AccountProblem", "NotSignedUp", "InvalidSecurity"),
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed", "RequestTimeTooSkewed"),
    *("ExpiredToken", "ExpiredTokenException", "RequestExpired", "InvalidToken", "TokenRefreshRequired"),
    *("InvalidTokenId", "InvalidClientTokenId", "UnrecognizedClientException", "UserSuspended"),  # MinIO, STS, Ceph
    *("PermanentRedirect", "IllegalLocationConstraintException"),
}
_PASSING = {
    *("SlowDown", "Throttling", "ThrottlingException", "ThrottledException", "RequestLimitExceeded"),
    *("RequestThrottled", "RequestThrottledException", "TooManyRequests", "BandwidthLimitExceeded"),
    *("RequestTimeout", "RequestTimeoutException", "InternalError", "ServiceUnavailable", "PriorRequestNotComplete"),
    *("OperationAborted", "ConditionalRequestConflict"),  # another request for the same object is under way
    *("IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"),  # what arrived is not what was sent
    "NoSuchUpload",  # in parts, whose completion was done but its answer lost: all of it again
}
_FULL = {"QuotaExceeded", "XMinioStorageFull"}  # Ceph, MinIO
_DENIED = {"AccessDenied", "AccessDeniedException", "AccessForbidden", "Forbidden", "403"}
_VIRTUAL_ONLY = {"SecondLevelDomainForbidden", "PathStyleDomainForbidden"}  # Alibaba OSS, Tencent COS
_MD5 = re.compile("[0-9a-f]{32}")


class Refused(Denied):
    """Raised where the bucket's listing is denied, too, by its permissions or because keys are wrong by now."""


def s3_fault(uri: str, error: Exception) -> Exception | None:
    """Returns our error for one of botocore's, None for what is none of a request's.

    >>> from botocore.exceptions import ClientError
    >>> reply = {"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}
    >>> s3_fault("s3://bucket/a.jpg", ClientError(reply, "GetObject"))
    TransientError('s3://bucket/a.jpg: SlowDown')
    """
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    away = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError, boto.SSLError)
    passing = (boto.HTTPClientError, boto.IncompleteReadError, boto.FlexibleChecksumError, OSError)
    if isinstance(error, boto.ClientError):
        return _reply_fault(uri, code_of(error), status_of(error))
    if isinstance(error, away):
        if _is_in_host(uri, str(error.kwargs.get("endpoint_url", ""))):
            return Unreachable(
                f"{uri}: the S3 endpoint cannot be reached under the bucket's name; where it has no host name for each "
                "bucket, set storage.s3.addressing_style: path (or AWS_VIRTUAL_HOSTING=NO)"
            )
        return Unreachable(f"{uri}: the S3 endpoint cannot be reached; check AWS_ENDPOINT_URL and the network")
    # a body that was cut short where it is XML, and TLS errors while a body is read, which botocore lets through
    if isinstance(error, (*passing, ResponseParserError, HTTPError)):
        return TransientError(f"{uri}: {type(error).__name__}")
    if isinstance(error, boto.ParamValidationError):
        return Unreadable(f"{uri}: not a name that S3 allows")
    if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError)):
        return StoreUnavailable(
            f"{uri}: {type(error).__name__}: check the AWS variables; a public bucket needs no keys: set "
            "storage.s3.anonymous: true (or AWS_NO_SIGN_REQUEST=YES)"
        )
    if isinstance(error, boto.BotoCoreError):
        return StoreUnavailable(f"{uri}: {type(error).__name__}: check the AWS variables")
    return None


def s3_place_fault(uri: str, error: Exception) -> Exception | None:
    """Returns ``s3_fault`` of a request for more than one object. A denied one says what might help."""
    fault = s3_fault(uri, error)
    return Denied(f"{fault}{_hint(uri)}") if isinstance(fault, Denied) else fault


def is_doubtful(error: Exception) -> bool:
    """Tells whether the reply to a GET may be about more than this object: access denied, or a 404 not in S3's words.

    Some servers say AccessDenied to keys that have expired. A gateway that has lost its servers says 404 by itself.
    """
    code, status = code_of(error), status_of(error)
    return code in _DENIED or (status == 404 and code not in _OF_ALL and not code.startswith("NoSuch"))


def is_whole(data: bytes, reply: Any) -> bool:
    """Tells whether the bytes of a GET fit the reply's ETag. That is their MD5 if it looks like one, mostly."""
    version = reply["ETag"].strip('"')
    if reply.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in reply:
        return True  # the ETag is that of what is stored
    return not _MD5.fullmatch(version) or hashlib.md5(data, usedforsecurity=False).hexdigest() == version


def code_of(error: Any) -> str:
    """Returns the error code of a ClientError, or the status as text where the reply had no body, as to a HEAD."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: Any) -> int:
    """Returns the HTTP status of a ClientError."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _reply_fault(uri: str, code: str, status: int) -> Exception:
    if code == "NoSuchBucket":
        return StoreUnavailable(f"{uri}: no such bucket")
    if status == 507 or code in _FULL:
        return StoreUnavailable(f"{uri}: {code}: the store is full")
    if code in _VIRTUAL_ONLY:
        hint = "set storage.s3.addressing_style: virtual (or AWS_VIRTUAL_HOSTING=YES)"
        return StoreUnavailable(f"{uri}: {code}: this server wants the bucket in its host name; {hint}")
    if code in _OF_ALL or status in (301, 307, 401):
        return StoreUnavailable(f"{uri}: {code}: check the AWS variables (keys, region, endpoint)")
    if status == 501:
        return StoreUnavailable(f"{uri}: {code}: the server lacks what this request needs")
    if status >= 500 or status in (408, 425, 429) or code in _PASSING:
        return TransientError(f"{uri}: {code}")
    if status == 404:
        return NotFound(f"{uri}: no such object")
    return Denied(f"{uri}: access denied") if code in _DENIED else Unreadable(f"{uri}: {code}")


def _hint(uri: str) -> str:
    """Returns which setting might help where access is denied, among those that are not in force."""
    if settings.is_anonymous(_bucket(uri)):
        return " to who asks without keys (storage.s3.anonymous, AWS_NO_SIGN_REQUEST)"
    public = "a public bucket storage.s3.anonymous: true (AWS_NO_SIGN_REQUEST=YES)"
    if settings.current().request_payer is not None:
        return f" (to the requester who pays, too; {public})"
    return f" (a requester-pays bucket wants storage.s3.request_payer: requester (AWS_REQUEST_PAYER), {public})"


def _bucket(uri: str) -> str:
    return uri.removeprefix("s3://").partition("/")[0]


def _is_in_host(uri: str, url: str) -> bool:
    """Tells whether the address that was asked begins with the bucket's name, at another server than AWS's."""
    host = url.partition("://")[2].partition("/")[0].partition(":")[0]
    return host.startswith(f"{_bucket(uri)}.") and not host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
