"""Reads the result that a command has written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m2f_batch.result import MAX_BYTES

FIELDS = {
    *("command", "exit_code", "retry", "output", "run_id", "totals", "error", "submission_id"),
    *("started_at", "finished_at"),
}


def result_of(file: Path, codes_to_try_again: Sequence[int] = (1, 130, 137)) -> dict[str, Any]:
    data = file.read_bytes()
    assert len(data) <= MAX_BYTES and data.endswith(b"\n") and data.count(b"\n") == 1
    told = json.loads(data)
    assert told.keys() == FIELDS and told["retry"] == (told["exit_code"] in codes_to_try_again)
    assert told["started_at"] <= told["finished_at"]
    return told


SEGMENT = ["segment", "s3://bucket/images", "s3://b/labels", "--model", "s3://bucket/model"]
