"""The CronWorkflow that hera writes, read back by hera's models of Argo's API."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import SCHEDULERS, check_told, recipe, run_as_in_the_pod

workflows = pytest.importorskip("hera.workflows", reason="make test-tools")


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    """What the recipe prints, as kubectl gets it."""
    script = [sys.executable, str(SCHEDULERS / "argo_nightly.py")]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    return yaml.safe_load(done.stdout)


@pytest.fixture(scope="module")
def template(written: dict[str, Any]) -> dict[str, Any]:
    (template,) = written["spec"]["workflowSpec"]["templates"]
    return template


def known(written: dict[str, Any]) -> dict[str, Any]:
    """What hera's models of Argo's API keep of an object: what they do not know is dropped."""
    model = workflows.models.CronWorkflow.model_validate(written)
    return json.loads(model.model_dump_json(by_alias=True, exclude_none=True))


def test_it_is_argos_own_kind_and_comes_back_the_same(written: dict[str, Any]) -> None:
    assert (written["apiVersion"], written["kind"]) == ("argoproj.io/v1alpha1", "CronWorkflow")
    assert workflows.CronWorkflow.from_yaml(yaml.safe_dump(written)).to_dict() == written
    assert known(written) == written
    other = copy.deepcopy(written)
    other["spec"]["workflowSpec"]["templates"][0]["retryStrategy"]["expresion"] = "true"
    assert known(other) == written, "a field that Argo does not have would be noticed"


def test_its_pod_is_the_one_of_all_recipes(written: dict[str, Any], template: dict[str, Any]) -> None:
    pod = yaml.safe_load((SCHEDULERS / "pod.yaml").read_text())
    (submit,) = pod["spec"]["containers"]
    container, workflow = template["container"], written["spec"]["workflowSpec"]
    for name in ("image", "env", "securityContext", "resources", "volumeMounts"):
        assert container[name] == submit[name], name
    assert (workflow["securityContext"], workflow["volumes"]) == (
        pod["spec"]["securityContext"],
        pod["spec"]["volumes"],
    )
    assert written["metadata"]["namespace"] == pod["metadata"]["namespace"]
    named = [thing["metadata"]["name"] for thing in yaml.safe_load_all((SCHEDULERS / "argo-access.yaml").read_text())]
    assert workflow["serviceAccountName"] in named


def test_each_exit_code(template: dict[str, Any], ending: Any, tmp_path: Path) -> None:
    exit_code, cluster = ending
    words = [*template["container"]["command"], *template["container"]["args"]]
    words = [word.replace("{{workflow.name}}", "m2f-batch-nightly-1795918500") for word in words]
    code, result = run_as_in_the_pod(words, cluster, tmp_path)
    assert code == exit_code
    check_told(exit_code, result)
    (output,) = template["outputs"]["parameters"]
    assert output["valueFrom"]["path"] == words[words.index("--result") + 1]
    assert cluster.submitted() == ["m2f-batch-nightly-1795918500"]
    if exit_code:
        again = template["retryStrategy"]["expression"]  # in Argo's language and in Python alike
        last = SimpleNamespace(exitCode=str(exit_code))
        assert eval(again, {"asInt": int, "lastRetry": last}) is result["retry"]


def test_a_lost_node_is_tried_again(template: dict[str, Any]) -> None:
    strategy = template["retryStrategy"]
    assert (strategy["limit"], strategy["retryPolicy"]) == (2, "Always")
    assert eval(strategy["expression"], {"asInt": int, "lastRetry": SimpleNamespace(exitCode="-1")}) is True


def test_the_module_prints_only_as_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe("argo_nightly").workflow.name == "m2f-batch-nightly"
    assert capsys.readouterr().out == ""
