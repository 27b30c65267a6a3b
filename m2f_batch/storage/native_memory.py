"""Lets Arrow read bytes without holding on to objects of Python.

Arrow's threads may be the last to let go of what they read. To let go of an object of Python, they need the
interpreter. One that has begun to end stops such a thread inside a destructor of C++, and the process is aborted after
its command has done its work ("terminate called without an active exception", exit code -6).
"""

import pyarrow as pa


def reader_of(data: bytes) -> pa.BufferReader:
    """Return a reader of a copy of ``data``, which belongs to Arrow alone."""
    copy = pa.allocate_buffer(len(data))
    with pa.FixedSizeBufferWriter(copy) as writer:
        writer.write(data)
    return pa.BufferReader(copy)
