"""The rows of a run never disturbed, without Ray: one process that does one stage after the other."""

import pytest
from storages import Storage, rows_of
from support.engines import config_of, in_process
from support.s3_servers import set_variables
from support.stores import reset_stores

from m2f_batch.records import Row


def rows_alone(storage: Storage, model: str) -> list[Row]:
    """The rows of all images of ``storage``; its run stays there. Sooner there than a first run on Ray."""
    with pytest.MonkeyPatch.context() as patch:
        set_variables(storage.variables, patch)
        config = config_of(
            storage.source, storage.at("alone"), model, compute={"device": "cpu", "threads_per_actor": 1}
        )
        assert in_process(config) == 0
    reset_stores()
    return rows_of(storage, storage.at("alone"))
