"""Every manifest as kubectl renders it, against KubeRay's and Kubernetes' own schemas: unknown fields are errors."""

import copy
import json
import math
import re
import shutil
from collections import Counter
from pathlib import Path

import jsonschema
import pytest
import yaml
from support.infra_files import (
    INFRA,
    KUBERAY,
    KUBERNETES,
    OF_RAY,
    OVERLAYS,
    amount,
    cluster_spec,
    crd,
    of_ray,
    overlay,
    pods,
    rendered,
)

KUBERNETES_VERSIONS = ("1.31", "1.34")


@pytest.mark.parametrize("version", KUBERAY)
@pytest.mark.parametrize("name", OVERLAYS)
def test_rays_kinds_are_what_kuberay_defines(name, version):
    found = of_ray(overlay(name))
    assert len(found) == 1
    jsonschema.Draft7Validator(crd(version, found[0]["kind"])).validate(found[0])


@pytest.mark.parametrize("version", KUBERAY)
def test_a_field_that_kuberay_does_not_know_is_found(version):
    (thing,) = of_ray(overlay("segment-spot"))
    places = (
        lambda tree: tree["spec"],
        lambda tree: tree["spec"]["rayClusterSpec"]["headGroupSpec"],
        lambda tree: tree["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0],
    )
    for place in places:
        wrong = copy.deepcopy(thing)
        place(wrong)["backofLimit"] = 2
        with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
            jsonschema.Draft7Validator(crd(version, "RayJob")).validate(wrong)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_the_other_kinds_are_what_kubernetes_defines(name, version):
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed").validate
    things = [thing for thing in overlay(name) if thing["apiVersion"] != OF_RAY]
    assert things
    for thing in things:
        validate(thing, version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_pods_of_rays_kinds_are_what_kubernetes_defines(version):
    """KubeRay's definitions leave labels and annotations of pods open."""
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed").validate
    (thing,) = of_ray(overlay("segment-spot"))
    spec = thing["spec"]["rayClusterSpec"]
    templates = [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
    for template in [*templates, thing["spec"]["submitterPodTemplate"]]:
        metadata = {"name": "pod"} | template.get("metadata", {})
        validate({"apiVersion": "v1", "kind": "Pod", **template, "metadata": metadata}, version, strict=True)


def queued_segment(tmp_path):
    """The job of overlays/segment-spot with the lines for Kueue, as kubectl renders them without their marks."""
    for folder in ("infra/kubernetes", "jobs"):
        shutil.copytree(INFRA.parent / folder, tmp_path / folder)
    file = tmp_path / "infra/kubernetes/overlays/segment-spot/kustomization.yaml"
    lines = re.search(r"(?m)^#   patchesJson6902:\n(#   [- ] ?.*\n)+", file.read_text())
    file.write_text(file.read_text() + lines[0].replace("#   ", ""))
    (thing,) = of_ray(rendered(str(file.parent)))
    return thing


@pytest.mark.parametrize("version", KUBERAY)
def test_what_kueue_wants_is_a_comment_that_works(version, tmp_path):
    thing = queued_segment(tmp_path)
    jsonschema.Draft7Validator(crd(version, "RayJob")).validate(thing)
    assert thing["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "gpus"}
    cluster = thing["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is False and thing["spec"]["shutdownAfterJobFinishes"] is True
    assert [(each["minReplicas"], each["replicas"]) for each in cluster["workerGroupSpecs"]] == [(8, 8), (1, 1)]


def test_kueues_quota_is_what_one_such_job_asks_for(tmp_path):
    thing = queued_segment(tmp_path)
    text = (KUBERNETES / "kueue.yaml").read_text()
    flavor, cluster_queue, local_queue = yaml.safe_load_all(text)
    versions = {thing["apiVersion"] for thing in (flavor, cluster_queue, local_queue)}
    assert versions == {"kueue.x-k8s.io/v1beta2"} and "Kueue (0.15 or newer: v1beta2)" in text  # 0.15 serves it first
    replicas = {each["groupName"]: each["replicas"] for each in cluster_spec(thing)["workerGroupSpecs"]}
    asked: Counter[str] = Counter()
    for name, pod in pods(thing):
        for container in pod["containers"]:
            for resource, quantity in container["resources"]["requests"].items():
                asked[resource] += amount(quantity) * replicas.get(name, 1)
    (group,) = cluster_queue["spec"]["resourceGroups"]
    (kind,) = group["flavors"]
    quota = {each["name"]: amount(each["nominalQuota"]) for each in kind["resources"]}
    assert asked.keys() == quota.keys() == {*group["coveredResources"]}
    assert quota == {resource: math.ceil(wanted) for resource, wanted in asked.items()}
    assert asked["nvidia.com/gpu"] == 8 and asked["ephemeral-storage"] == 608
    assert kind["name"] == flavor["metadata"]["name"]
    assert local_queue["spec"]["clusterQueue"] == cluster_queue["metadata"]["name"]
    assert thing["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local_queue["metadata"]["name"]
    assert thing["metadata"]["namespace"] == local_queue["metadata"]["namespace"]
    namespace = {"kubernetes.io/metadata.name": thing["metadata"]["namespace"]}
    assert cluster_queue["spec"]["namespaceSelector"]["matchLabels"] == namespace


def test_what_a_training_waits_for_in_vain_is_what_the_comment_says():
    comment = (KUBERNETES / "overlays/finetune-eight/finetune.yaml").read_text()
    (thing,) = of_ray(overlay("finetune-eight"))
    tries, gpus = map(int, re.search(r"at most\n# (\d) x (\d) GPU hours", comment).groups())
    assert tries == thing["spec"]["backoffLimit"] + 1 and thing["spec"]["preRunningDeadlineSeconds"] == 3600
    assert gpus == thing["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"] - 1


def test_every_manifest_is_in_an_overlay():
    names = {thing["metadata"]["name"] for name in OVERLAYS for thing in overlay(name)}
    for file in [*KUBERNETES.glob("base/*.yaml"), *KUBERNETES.glob("overlays/*/*.yaml")]:
        documents = [*yaml.safe_load_all(file.read_text())]
        manifests = [thing for thing in documents if isinstance(thing, dict) and "apiVersion" in thing]
        is_patch = isinstance(documents[0], list)
        kustomization = yaml.safe_load((file.parent / "kustomization.yaml").read_text())
        if is_patch:
            assert file.name in [patch["path"] for patch in kustomization["patchesJson6902"]]
        elif manifests:
            assert file.name in kustomization["resources"]
            assert {thing["metadata"]["name"] for thing in manifests} <= names | {"m2f-batch-segment"}
        else:
            assert file.name == "kustomization.yaml"


def test_the_config_map_holds_the_presets_as_they_are():
    (presets,) = rendered("jobs")
    folder = Path(INFRA.parent / "jobs")
    assert presets["data"] == {
        file.name: file.read_text() for file in folder.glob("*.yaml") if file.name != "kustomization.yaml"
    }
    for name in OVERLAYS:
        (mounted,) = (thing for thing in overlay(name) if thing["metadata"]["name"] == "m2f-batch-jobs")
        assert mounted["data"] == presets["data"]


@pytest.mark.parametrize("file", ["prometheus/access.yaml", "kubernetes/gke.yaml", "kubernetes/ingress.yaml"])
@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_what_is_applied_by_itself_is_what_kubernetes_defines(version, file):
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed").validate
    for thing in yaml.safe_load_all((INFRA / file).read_text()):
        validate(thing, version, strict=True)


@pytest.mark.parametrize("file", ["machines", "aws"])
def test_launcher_files_are_what_ray_defines(file):
    """Ray's own schema of its cluster launcher, which allows no field that it does not name."""
    import ray

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    assert schema["additionalProperties"] is False
    jsonschema.Draft7Validator(schema).validate(yaml.safe_load((INFRA / "ray" / f"{file}.yaml").read_text()))


def test_spot_machines_of_the_launcher_install_nothing():
    """The image, which has what Ray's launcher calls in it: rsync, and ssh by which the head starts others."""
    from ray.autoscaler._private.docker import docker_start_cmds, validate_docker_config

    tree = yaml.safe_load((INFRA / "ray" / "aws.yaml").read_text())
    validate_docker_config(tree)
    images = {each["image"] for _, pod in pods(*of_ray(overlay("segment-spot"))) for each in pod["containers"]}
    assert images == {tree["docker"]["image"]}
    lines = [line for key, found in tree.items() if key.endswith("_commands") for line in found]
    assert lines and not [line for line in lines if re.search(r"\b(make|pip|uv|apt-get)\b|\.venv", line)]
    mounts = dict.fromkeys(tree["file_mounts"], "")
    options = tree["docker"]["run_options"]
    started = docker_start_cmds("ubuntu", *images, mounts, "m2f-batch", options, "m2f-batch", "/root", "docker")
    assert " --user=0 --ulimit nofile=65536:65536 --net=host registry.example.com/" in started
    assert ":/root/.ray/auth_token " in started
    final = (INFRA / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert re.search(r"apt-get install .*\bopenssh-client\b.*\brsync\b", final)
