"""The DAG as Airflow's own DagBag loads it, the pod that its operator builds, and what becomes of each exit code."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import FINAL, SCHEDULERS, check_told, run_as_in_the_pod

pytest.importorskip("airflow", reason="make test-tools")


@pytest.fixture(scope="module")
def dag(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The DAG of a folder that holds what the recipe says, and nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("airflow")
        patch.setenv("AIRFLOW_HOME", str(home))
        patch.setenv("AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT", "500")  # a busy machine imports Airflow for a minute
        from airflow.dag_processing.dagbag import DagBag

        (home / "dags").mkdir()
        for name in ("airflow_nightly.py", "pod.yaml"):
            shutil.copy(SCHEDULERS / name, home / "dags")
        bag = DagBag(str(home / "dags"))
        assert bag.import_errors == {}
        yield bag.dags["m2f_batch_nightly"]


@pytest.fixture
def task(dag: Any) -> Any:
    """The operator as a run of the DAG has it."""
    task = dag.get_task("segment").prepare_for_execution()
    task.render_template_fields({"dag_run": SimpleNamespace(run_after=datetime(2026, 11, 29, 2, 15, tzinfo=UTC))})
    return task


def built(task: Any) -> dict[str, Any]:
    """The pod as Kubernetes' API gets it."""
    from kubernetes.client import ApiClient

    return ApiClient().sanitize_for_serialization(task.build_pod_request_obj(dry_run=True))


def test_it_is_planned_once_a_night(dag: Any) -> None:
    assert (dag.schedule, dag.catchup, dag.max_active_runs) == ("15 2 * * *", False, 1)


def test_its_pod_is_the_one_of_all_recipes_and_a_sidecar(task: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pod = built(task)
    own = yaml.safe_load((SCHEDULERS / "pod.yaml").read_text())
    submit, sidecar = pod["spec"]["containers"]
    (wanted,) = own["spec"]["containers"]
    assert submit["command"] == ["m2f-batch"]
    assert submit["args"][-3:] == ["airflow-20261129T021500", "--result", "/airflow/xcom/return.json"]
    for name in ("name", "image", "env", "securityContext", "resources"):
        assert submit[name] == wanted[name], name
    xcom = {"name": "xcom", "mountPath": "/airflow/xcom"}
    assert submit["volumeMounts"] == [xcom, *wanted["volumeMounts"]] and sidecar["volumeMounts"] == [xcom]
    assert sidecar["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    for name in ("restartPolicy", "automountServiceAccountToken", "terminationGracePeriodSeconds", "securityContext"):
        assert pod["spec"][name] == own["spec"][name], name
    assert pod["metadata"]["namespace"] == "m2f-batch"
    assert "secret-token" not in json.dumps(pod)
    task.dry_run()
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed[printed.index("api_version:") :])["spec"]["containers"][0]["args"] == submit["args"]


def test_each_exit_code(task: Any, ending: Any, tmp_path: Path) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    exit_code, cluster = ending
    submit, _ = built(task)["spec"]["containers"]
    code, result = run_as_in_the_pod([*submit["command"], *submit["args"]], cluster, tmp_path)
    assert code == exit_code
    check_told(exit_code, result)
    assert cluster.submitted() == ["airflow-20261129T021500"]
    raised = end_of(task, exit_code, result)
    if exit_code == 0:
        assert raised is None
    elif exit_code in FINAL:
        assert isinstance(raised, AirflowFailException) and str(raised) == f"it is {exit_code}"
    else:
        assert isinstance(raised, AirflowException) and not isinstance(raised, AirflowFailException)


def test_a_pod_that_was_killed_is_tried_again(task: Any) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    raised = end_of(task, 137, None)
    assert isinstance(raised, AirflowException) and not isinstance(raised, AirflowFailException)
    assert (task.retries, task.retry_delay.total_seconds()) == (2, 600)


def end_of(task: Any, exit_code: int, result: dict[str, Any] | None) -> BaseException | None:
    """What the operator raises after its pod, the sidecar still in it, has ended so."""
    from airflow.sdk.exceptions import AirflowException
    from kubernetes import client

    state = client.V1ContainerState(terminated=client.V1ContainerStateTerminated(exit_code=exit_code))
    status = client.V1ContainerStatus(
        name="submit", state=state, image="", image_id="", ready=False, restart_count=0, started=False
    )
    pod = task.build_pod_request_obj(dry_run=True)
    pod.status = client.V1PodStatus(phase="Running", container_statuses=[status])
    pushed: list[Any] = []
    task.pod_manager = SimpleNamespace(read_pod=lambda pod: pod)
    task.patch_already_checked = task.process_pod_deletion = task._read_pod_events = lambda *_, **__: None
    task._read_pod_container_states = lambda *_, **__: None
    instance = SimpleNamespace(xcom_push=lambda key, value: pushed.append((key, value)))
    try:
        task.cleanup(pod, pod, xcom_result=result, context={"ti": instance})
    except AirflowException as error:
        assert pushed == ([("return_value", result)] if result else []), "the result of a failure is there too"
        return error
    return None
