"""Describes the disks of this machine: paths, and ``file:///a%20b``."""

from m2f_batch.backends import Backend

BACKEND = Backend(schemes=("", "file"), opener="m2f_batch.storage.local:open_store", is_local=True)
