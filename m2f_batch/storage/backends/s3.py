"""Describes S3, and servers that speak its protocol: ``s3://bucket/key``."""

from m2f_batch.backends import Backend

BACKEND = Backend(
    schemes=("s3",),
    opener="m2f_batch.storage.s3.store:open_store",
    settings="m2f_batch.storage.s3.settings:current",
    authority=(
        (
            r"(?!anonymous@).*",  # as Ray takes it
            "s3://anonymous@...: wanted s3://BUCKET/KEY; that no keys are used is a setting: storage.s3.anonymous: "
            "true, or a list of such buckets (or AWS_NO_SIGN_REQUEST=YES)",
        ),
        (
            r"[A-Za-z0-9._-]+",
            "s3://...: wanted s3://BUCKET/KEY, BUCKET of letters, digits, '.', '-' and '_', no keys in it",
        ),
    ),
    misspelled=("s3a", "s3n"),
    forwarded=(
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
        "AWS_REQUEST_CHECKSUM_CALCULATION",
        "AWS_RESPONSE_CHECKSUM_VALIDATION",
        "AWS_VIRTUAL_HOSTING",
        "AWS_REQUEST_PAYER",
        "AWS_NO_SIGN_REQUEST",
        "M2F_BATCH_S3_TIMEOUT",
    ),
    endpoints=("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    secrets=(
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_SECURITY_TOKEN",
        "AWS_ACCESS_KEY_ID",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    ),
    secret_files=("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
    profiles=(("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"), ("AWS_CONFIG_FILE", ".aws/config")),
    profile_keys=("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_security_token"),
)
