"""Describes Azure's stores: ``abfs://container@account.dfs.core.windows.net/key``."""

from m2f_batch.backends import Backend

BACKEND = Backend(
    schemes=("abfs", "abfss"),
    opener="m2f_batch.storage.arrow:open_store",
    # pyarrow.fs also takes ACCOUNT.blob.core.windows.net/CONTAINER and ACCOUNT@CONTAINER
    authority=((r".*[@.].*", "{scheme}://...: wanted {scheme}://CONTAINER@ACCOUNT.dfs.core.windows.net/KEY"),),
    secrets=(
        "AZURE_STORAGE_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_CONNECTION_STRING",
        "AZURE_CLIENT_SECRET",
    ),
    secret_parts=(("AZURE_STORAGE_CONNECTION_STRING", r"(?i)AccountKey=([^;\s]+)"),),
)
