"""What the manifests promise: tokens everywhere, no root, limits, secrets by reference, who may talk to whom."""

import re

import pytest
import yaml
from support.infra_files import INFRA, OVERLAYS, cluster_spec, files, locked, of_ray, overlay, pods, ray_job_spec

from m2f_batch.version import VERSION

KEYS = re.compile(
    r"AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|-----BEGIN|hf_[A-Za-z0-9]{20}|gh[pousr]_\w{20}"
    r"|(secret_access_key|password|auth_token)['\"]?\s*[:=]\s*['\"]?(?!/)[\w+/]{8}",
    re.IGNORECASE,
)


def all_pods():
    return [
        pytest.param(spec, id=f"{name}-{thing['kind']}-{pod}")
        for name in OVERLAYS
        for thing in overlay(name)
        for pod, spec in pods(thing)
    ]


def pytest_generate_tests(metafunc):
    if "pod" in metafunc.fixturenames:
        try:
            metafunc.parametrize("pod", all_pods())
        except pytest.skip.Exception as reason:
            metafunc.parametrize("pod", [pytest.param({}, marks=pytest.mark.skip(reason=str(reason)))])


def test_every_container_is_without_root_and_with_limits(pod):
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True and security["runAsUser"] > 0 and security["runAsGroup"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert all({"emptyDir", "configMap"} & volume.keys() for volume in pod["volumes"])  # nothing of the node's
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        image = container["image"].removeprefix(f"registry.example.com/m2f-batch:{VERSION}-")
        assert image == "client" if container["name"] == "submit" else image in ("cuda", "cpu")


def test_memory_backed_volumes_fit_into_the_memory_that_they_count_against(pod):
    (container, *_) = pod["containers"]
    for volume in pod["volumes"]:
        size = volume.get("emptyDir", {})
        if size.get("medium") == "Memory":
            memory = container["resources"]["limits"]["memory"]
            share = int(size["sizeLimit"].removesuffix("Gi")) / int(memory.removesuffix("Gi"))
            assert 0.3 < share < 0.5  # Ray's object store takes 0.3 of the memory


def test_only_the_heads_autoscaler_may_talk_to_kubernetes(pod):
    if pod.get("serviceAccountName") != "m2f-batch-head":
        assert pod["automountServiceAccountToken"] is False


def test_the_head_stays_while_others_drain(pod):
    for container in pod["containers"]:
        if "lifecycle" in container:
            command = container["lifecycle"]["preStop"]["exec"]["command"][-1]
            sleep, grace = re.fullmatch(r"sleep (\d+); ray stop --grace-period (\d+)", command).groups()
            assert int(sleep) + int(grace) < pod["terminationGracePeriodSeconds"]
            assert int(sleep) > 15  # what units under way get when a run is stopped


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_ray_cluster_without_a_token(name):
    (thing,) = of_ray(overlay(name))
    spec = cluster_spec(thing)
    assert spec["authOptions"] == {"mode": "token", "secretName": "m2f-batch-ray-token"}
    assert spec["rayVersion"] == locked("ray")  # KubeRay refuses tokens without a version
    for _, pod in pods(thing):
        for container in pod["containers"]:
            assert "RAY_AUTH_MODE" not in {
                each["name"] for each in container.get("env", [])
            }  # would go before KubeRay's


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_head_runs_no_work_and_gpus_come_from_none(name):
    (thing,) = of_ray(overlay(name))
    spec = cluster_spec(thing)
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["enableInTreeAutoscaling"] is True and spec["autoscalerOptions"]["version"] == "v2"
    assert spec["autoscalerOptions"]["resources"]["limits"] == spec["autoscalerOptions"]["resources"]["requests"]
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        if group["groupName"] == "gpu" and name != "finetune-eight":
            assert group["minReplicas"] == 0
        tolerated = {each["key"] for each in group["template"]["spec"]["tolerations"]}
        assert {"nvidia.com/gpu", "cloud.google.com/gke-spot"} <= tolerated


@pytest.mark.parametrize("name", OVERLAYS)
def test_ray_jobs_end_and_are_not_tried_for_ever(name):
    (thing,) = of_ray(overlay(name))
    if thing["kind"] != "RayCluster":
        spec = ray_job_spec(thing)
        assert spec["shutdownAfterJobFinishes"] is True and spec["ttlSecondsAfterFinished"] > 0
        assert 0 < spec["backoffLimit"] <= 3 and spec["submitterConfig"]["backoffLimit"] <= 3
        assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
        if thing["kind"] == "RayCronJob":
            assert spec["activeDeadlineSeconds"] < 24 * 3600


def test_the_cron_job_tries_again_only_what_may_pass():
    (job,) = (thing for thing in overlay("nightly") if thing["kind"] == "CronJob")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    spec = job["spec"]["jobTemplate"]["spec"]
    fail, ignore = spec["podFailurePolicy"]["rules"]
    assert fail["action"] == "FailJob" and fail["onExitCodes"]["values"] == [2, 3]
    assert ignore["action"] == "Ignore" and spec["template"]["spec"]["restartPolicy"] == "Never"
    (container,) = spec["template"]["spec"]["containers"]
    assert fail["onExitCodes"]["containerName"] == container["name"]
    token = {each["name"]: each for each in container["env"]}
    assert token["RAY_AUTH_MODE"]["value"] == "token"
    assert token["RAY_AUTH_TOKEN"]["valueFrom"] == {
        "secretKeyRef": {"name": "m2f-batch-ray-token", "key": "auth_token"}
    }
    clusters = [thing["metadata"]["name"] for thing in of_ray(overlay("nightly"))]
    assert f"http://{clusters[0]}-head-svc:8265" in container["args"]


def test_the_hubs_token_is_taken_where_there_is_one():
    made = (INFRA / "kubernetes" / "hub-token.sh").read_text()
    name, key = re.search(r"secret generic (\S+) --namespace m2f-batch --from-file=(\w+)=/dev/stdin", made).groups()
    for overlay_name in OVERLAYS:
        for pod, spec in pods(*of_ray(overlay(overlay_name))):
            taken = [each for each in spec["containers"][0]["env"] if each["name"] == "HF_TOKEN"]
            reference = {"valueFrom": {"secretKeyRef": {"name": name, "key": key, "optional": True}}}
            assert taken == ([] if pod == "submitter" else [{"name": "HF_TOKEN", **reference}])


def test_no_head_is_evicted_while_workers_may_be():
    """Of pods without a controller that it knows, Kubernetes takes a whole number as minAvailable, and nothing else."""
    for name in OVERLAYS:
        (budget,) = (thing for thing in overlay(name) if thing["kind"] == "PodDisruptionBudget")
        assert budget["spec"]["selector"] == {"matchLabels": {"ray.io/node-type": "head"}}
        assert "maxUnavailable" not in budget["spec"] and budget["spec"]["minAvailable"] > 100


def test_secrets_are_references():
    for file in files("infra/**/*", "jobs/**/*"):
        text = file.read_bytes().decode(errors="replace")
        assert not KEYS.search(text), file
    for name in OVERLAYS:
        for thing in overlay(name):
            assert thing["kind"] != "Secret"
            for _, pod in pods(thing):
                for container in pod["containers"]:
                    for each in container.get("env", []):
                        assert "value" not in each or not re.search("TOKEN|SECRET|PASSWORD|KEY", each["name"])


def test_a_key_would_be_found():
    assert KEYS.search("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG")
    assert KEYS.search('auth_token: "0123456789abcdef"')
    assert not KEYS.search("key: auth_token")


def test_launchers_start_ray_with_a_token_and_a_head_without_work():
    for file in files("infra/ray/machines.yaml", "infra/ray/aws.yaml"):
        tree = yaml.safe_load(file.read_text())
        starts = [
            line for key in ("head", "worker") for line in tree[f"{key}_start_ray_commands"] if "ray start" in line
        ]
        assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in line for line in starts)
        assert "--num-cpus=0" in starts[0] and "--dashboard-host=127.0.0.1" in starts[0]
        assert tree["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
        for kind in tree.get("available_node_types", {}).values():
            assert kind["node_config"]["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
