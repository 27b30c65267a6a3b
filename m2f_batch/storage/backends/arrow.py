"""Describes the stores of Hadoop, which only ``pyarrow.fs`` opens.

pyarrow.fs would take any other scheme for one of fsspec's, and so open what that opens: web pages, archives,
``fsspec+file:///etc``.
"""

from m2f_batch.backends import Backend

BACKEND = Backend(
    schemes=("hdfs", "viewfs", "mock"),
    opener="m2f_batch.storage.arrow:open_store",
    hidden=("mock",),  # pyarrow's file system in memory
)
