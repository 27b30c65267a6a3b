"""Describes the web: images behind ``http(s)://`` URLs of hosts that an allow-list names."""

from m2f_batch.backends import Backend

BACKEND = Backend(
    schemes=("http", "https"),
    opener="m2f_batch.storage.web.store:open_store",
    name="the web",
    is_web=True,
    is_writable=False,
    ports={"http": 80, "https": 443},
)
