"""What the tests of infra/ share: the files, the overlays as kubectl renders them, and the pods in them."""

import functools
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PROJECT, SHARED
from support.debian import program

INFRA = PROJECT / "infra"
KUBERNETES = INFRA / "kubernetes"
OVERLAYS = sorted(folder.parent.name for folder in KUBERNETES.glob("overlays/*/kustomization.yaml"))
KUBERAY = ("v1.6.2", "v1.7.0")
OF_RAY = "ray.io/v1"
Tree = dict[str, Any]


@functools.cache
def rendered(folder: str) -> tuple[Tree, ...]:
    """The objects of a kustomization, relative to the project; skips where there is no kubectl."""
    kubectl = program("kubectl", "kubernetes-client")
    done = subprocess.run([kubectl, "kustomize", folder], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def overlay(name: str) -> tuple[Tree, ...]:
    """The objects of an overlay."""
    return rendered(f"infra/kubernetes/overlays/{name}")


def of_ray(objects: tuple[Tree, ...]) -> list[Tree]:
    """The RayJob, RayCluster or RayCronJob among objects."""
    return [thing for thing in objects if thing["apiVersion"] == OF_RAY]


def ray_job_spec(thing: Tree) -> Tree:
    """The spec of a RayJob, given or as a RayCronJob's template."""
    return thing["spec"].get("jobTemplate", thing["spec"])


def cluster_spec(thing: Tree) -> Tree:
    """The spec of the Ray cluster in any of Ray's kinds."""
    return ray_job_spec(thing).get("rayClusterSpec", thing["spec"])


def pods(thing: Tree) -> Iterator[tuple[str, Tree]]:
    """The spec of each pod that a thing makes, named; KubeRay copies the Ray containers' settings to its own."""
    if thing["kind"] == "CronJob":
        yield "submit", thing["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    if thing["apiVersion"] == OF_RAY:
        spec = cluster_spec(thing)
        yield "head", spec["headGroupSpec"]["template"]["spec"]
        for group in spec["workerGroupSpecs"]:
            yield group["groupName"], group["template"]["spec"]
        if "submitterPodTemplate" in ray_job_spec(thing):
            yield "submitter", ray_job_spec(thing)["submitterPodTemplate"]["spec"]


def commands(thing: Tree) -> Iterator[str]:
    """The commands of ours that a thing runs."""
    if thing["kind"] in ("RayJob", "RayCronJob"):
        yield ray_job_spec(thing)["entrypoint"]
    if thing["kind"] == "CronJob":
        (container,) = thing["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        yield " ".join([*container["command"], *container["args"]])


def leading_comment(text: str) -> str:
    """The first comment of a file, as plain text."""
    lines = text.splitlines()
    lines = lines[1:] if lines[0].startswith("#!") else lines
    block = []
    for line in lines:
        if not line.startswith("#"):
            break
        block.append(line.lstrip("# "))
    return "\n".join(block)


@functools.cache
def crd(version: str, kind: str) -> Mapping[str, Any]:
    """KubeRay's schema of a kind, in which unknown fields are errors; skips where it is not beside the checkout."""
    file = SHARED / "k8s" / f"kuberay-{version}" / f"ray.io_{kind.lower()}s.yaml"
    if not file.is_file():
        pytest.skip(f"KubeRay's definitions are not beside this checkout: {file.name} of {version}")
    text = yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (found,) = (each for each in text["spec"]["versions"] if each["name"] == "v1")
    return strict(found["schema"]["openAPIV3Schema"])


def strict(schema: Any) -> Any:
    """An OpenAPI schema of Kubernetes as a JSON schema that refuses fields it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items() if key != "properties"}
    if "properties" in schema:
        closed["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    return closed


def files(*patterns: str) -> list[Path]:
    """Files of the project by patterns."""
    return sorted(file for pattern in patterns for file in PROJECT.glob(pattern) if file.is_file())


def locked(package: str) -> str:
    """The version of a package in the lock file."""
    found = re.search(rf"^{package}==(\S+)", (PROJECT / "requirements.lock").read_text(), re.MULTILINE)
    assert found
    return found[1]


def amount(quantity: object, unit: float = 1) -> float:
    """A quantity of Kubernetes as a number: sizes in GiB, times ``unit``."""
    text = str(quantity)
    if text.endswith("Gi"):
        return float(text.removesuffix("Gi")) * unit
    return float(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)
