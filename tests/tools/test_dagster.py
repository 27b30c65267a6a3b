"""The asset, materialized by Dagster in this process, with the real command at a stand-in for a cluster."""

from typing import Any

import pytest
from conftest import FINAL, check_told, recipe

dagster = pytest.importorskip("dagster", reason="make test-tools")


def test_its_definitions_load() -> None:
    found = recipe("dagster_nightly")
    dagster.Definitions.validate_loadable(found.definitions)
    assert (found.nightly.cron_schedule, found.nightly.execution_timezone) == ("15 2 * * *", "Etc/UTC")
    assert found.labels.op.retry_policy == dagster.RetryPolicy(max_retries=2, delay=600)


def test_each_exit_code(ending: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    exit_code, cluster = ending
    policy = dagster.RetryPolicy(max_retries=2)
    monkeypatch.setattr(dagster, "RetryPolicy", lambda **_: policy)  # without the wait
    labels = recipe("dagster_nightly").labels
    with dagster.instance_for_test() as instance:
        done = dagster.materialize([labels], instance=instance, raise_on_error=False)
    name = f"dagster-{done.run_id}"
    if exit_code == 0:
        (materialized,) = done.asset_materializations_for_node("labels")
        metadata = materialized.metadata
    else:
        (failed,) = done.get_step_failure_events()
        metadata = failed.step_failure_data.user_failure_data.metadata
        assert failed.step_failure_data.user_failure_data.description == f"it is {exit_code}"
    told = {"error": None} | {key: value.value for key, value in metadata.items()}
    check_told(exit_code, told)
    assert done.success == (exit_code == 0)
    tries = 1 + len([event for event in done.all_events if event.is_step_restarted])
    assert tries == (1 if exit_code in FINAL else 3)
    assert cluster.submitted() == ([name] if exit_code in FINAL else [name, f"{name}-2", f"{name}-3"])
