"""What Arrow reads belongs to Arrow: its threads never need Python to let go of it, also when a process ends."""

import io
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import PROJECT
from pyarrow import csv

from m2f_batch.inputs.manifests import READERS
from m2f_batch.storage.native_memory import reader_of

# Arrow is given bytes of Python in another way
OTHERS = re.compile(
    r"pa\.BufferReader\((?!copy)|PythonFile|PyFileSystem"
    r"|csv\.(read|open)_csv\((?!reader_of)|pq\.(read_table|ParquetFile)\((?!reader_of|source)"
)


def test_it_reads_the_bytes() -> None:
    assert reader_of(b"").read() == b""
    assert reader_of(b"abc" * 100_000).read() == b"abc" * 100_000


def test_no_object_of_python_is_held() -> None:
    """Arrow locks the size of a bytearray for as long as it holds it."""
    table, file = pa.table({"uri": ["a", "b"], "more": [1, 2]}), io.BytesIO()
    pq.write_table(table, file)
    data = bytearray(file.getvalue())
    held = pa.BufferReader(data)
    with pytest.raises(BufferError):
        data.clear()
    del held
    opened = pq.ParquetFile(reader_of(data))  # type: ignore[arg-type]  # bytes that can be cleared
    data.clear()
    assert opened.read() == table


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv"])
def test_manifests_are_read_so(kind: str) -> None:
    table, file = pa.table({"uri": ["a", "b"], "more": ["x", "y"]}), io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, file)
    else:
        csv.write_csv(table, file, csv.WriteOptions(delimiter="," if kind == "csv" else "\t"))
    assert READERS[kind](file.getvalue()) == table


def test_all_of_the_package_reads_so() -> None:
    found = {
        f"{path.relative_to(PROJECT)}: {line.strip()}"
        for path in (PROJECT / "m2f_batch").rglob("*.py")
        for line in path.read_text().splitlines()
        if OTHERS.search(line)
    }
    assert found == set(), "give Arrow its own copy: storage/native_memory.py"
