"""Makes the page of a run directory: its files, the columns of its rows, and the keys of run.json."""

import re
from collections.abc import Iterator

import pyarrow as pa

from m2f_batch.records import COLUMNS, SCHEMA
from m2f_batch.runs.info import KEYS
from reference_pages.markdown import MADE, code, joined, table, text_of
from reference_pages.source import docstring, table_in


def page() -> str:
    """Return reference/run-directory.md."""
    files = (
        (code(file), text_of(re.sub(r":? ?see ``.*", "", text)))
        for file, text in table_in(docstring("m2f_batch.runs.directory"), "RUN/")
    )
    columns = ((code(path), kind, text_of(COLUMNS[path])) for path, kind in columns_of(SCHEMA))
    return joined(
        "# Run directory",
        f"What `segment` leaves in OUTPUT, which other commands call RUN. {MADE}",
        "## Files",
        table(["file", "what it holds"], files),
        "Read `annotations/*.parquet` once `_SUCCESS` is there. `_state/` is the run's own.",
        "## Annotations",
        "One row for each image, in Parquet. The schema is frozen.",
        table(["column", "type", "meaning"], columns),
        "## run.json",
        "It is there from the start, and fresh while the run goes on. A run of an older release may lack some keys.",
        table(["key", "meaning"], ((code(key), text_of(text)) for key, text in KEYS.items())),
    )


def columns_of(schema: pa.Schema | pa.StructType, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the type of each column, those within structures after the structure."""
    for field in schema:
        kind, path = field.type, f"{prefix}{field.name}"
        is_list = pa.types.is_list(kind)
        inner = kind.value_type if is_list else kind
        if pa.types.is_struct(inner):
            yield path, "list of structs" if is_list else "struct"
            yield from columns_of(inner, f"{path}.")
        else:
            yield path, _name(kind) + ("" if field.nullable else ", not null")


def _name(kind: pa.DataType) -> str:
    return f"{kind.value_type}[{kind.list_size}]" if pa.types.is_fixed_size_list(kind) else str(kind)
