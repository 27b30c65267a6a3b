"""Describes Google's stores: ``gs://bucket/key``."""

from m2f_batch.backends import Backend

BACKEND = Backend(
    schemes=("gs", "gcs"),
    opener="m2f_batch.storage.arrow:open_store",
    authority=((r"(anonymous@)?[^@]+", "{scheme}://...: wanted {scheme}://BUCKET/KEY"),),
)
