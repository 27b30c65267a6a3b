"""Defines the ``storage`` section of both configs."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from m2f_batch.config.section import Section, conflict


class S3Config(Section):
    """Settings of requests to S3, or to a server that speaks its protocol. They decide no label."""

    addressing_style: Literal["auto", "virtual", "path"] | None = Field(
        None,
        description="where requests name the bucket: virtual (BUCKET.host/KEY), path (host/BUCKET/KEY), or auto; as "
        "AWS_VIRTUAL_HOSTING, ~/.aws/config or boto3 say if not set: path at endpoints other than AWS",
    )
    request_payer: Literal["requester"] | None = Field(
        None, description="requester: read requester-pays buckets, at the cost of these keys; or AWS_REQUEST_PAYER"
    )
    anonymous: bool | tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")], ...] = Field(
        False,
        description="true: ask without keys, as public buckets want; or the names of those buckets, where others need "
        "keys; or AWS_NO_SIGN_REQUEST=YES",
    )

    @model_validator(mode="after")
    def _payer_has_keys(self) -> "S3Config":
        if self.anonymous is True and self.request_payer is not None:
            raise conflict(
                "storage.s3.request_payer: 'requester' does not apply to storage.s3.anonymous true: who pays is known "
                "by keys"
            )
        return self


class StorageConfig(Section):
    """The places that a job may read and write, and the settings of these. They decide no label."""

    allow: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None,
        min_length=1,
        description="the only places that may be read or written, with all below them: folders, s3://bucket/prefix/, "
        "s3:// (all buckets), hf://owner/name (a model of the hub), https://host/prefix/ (images on the web, of which "
        "nothing is read otherwise); any but the web if not set",
        examples=["[photos/, s3://bucket/labels/]"],
    )
    s3: S3Config = S3Config()
