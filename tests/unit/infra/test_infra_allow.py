"""The nodes that we ship keep to an allow-list, and it holds the places of the presets, and no more."""

import subprocess

import pytest
import yaml
from conftest import PROJECT
from support.infra_files import INFRA, OVERLAYS, files, of_ray, overlay, pods

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import load_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.processes import FOR_START
from m2f_batch.storage import allow

LAPTOP = "segment-cpu"  # its places are the laptop's own
PRESETS = sorted({file.stem for file in PROJECT.glob("jobs/*.yaml")} - {"kustomization", LAPTOP})
LAUNCHERS = files("infra/ray/machines.yaml", "infra/ray/aws.yaml")


def of_pods():
    """The list in the environment of all of Ray's pods."""
    found = set()
    for name in OVERLAYS:
        maps = {thing["metadata"]["name"]: thing["data"] for thing in overlay(name) if thing["kind"] == "ConfigMap"}
        for _, pod in (pod for thing in of_ray(overlay(name)) for pod in pods(thing)):
            for container in pod["containers"]:
                if container["name"] in ("ray-head", "ray-worker"):
                    (source,) = container["envFrom"]
                    assert allow.OF_MACHINE not in {each["name"] for each in container["env"]}  # would go before it
                    found.add(maps[source["configMapRef"]["name"]][allow.OF_MACHINE])
    (told,) = found
    return told


def of_machines():
    """The list that the launchers' machines get, as their shell reads it."""
    script = f'. infra/ray/environment.sh && printf %s "${allow.OF_MACHINE}"'
    done = subprocess.run(["sh", "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def places(preset):
    """Every place that the config of a job names."""
    if preset.startswith("finetune"):
        config = load_config(FinetuneConfig, file=str(PROJECT / "jobs" / f"{preset}.yaml"))
        data = {
            getattr(config.data, f"{side}{kind}") for side in ("train", "val") for kind in ("", "_images", "_masks")
        }
        named = {config.model.uri, config.model.backbone, config.output.uri, *data}
    else:
        config = load_config(SegmentConfig, file=str(PROJECT / "jobs" / f"{preset}.yaml"))
        named = {config.input.uri, config.input.root, config.model.uri, config.output.uri}
    return named - {None}


@pytest.mark.parametrize("told", [of_pods, of_machines], ids=["kubernetes", "launcher"])
def test_the_presets_lie_inside_and_nothing_else(told, monkeypatch):
    monkeypatch.setenv(allow.OF_MACHINE, told())
    needed = {place.rstrip("/") for preset in PRESETS for place in places(preset)}
    assert {place for place in needed if not allow.is_allowed(place)} == set()
    assert {entry.rstrip("/") for entry in told().split()} == needed  # least privilege
    for outside in (
        "/etc/passwd",
        "s3://my-bucket/",
        "s3://other/images/a.jpg",
        "s3://my-bucket/images-2/a.jpg",
        "gs://b/a",
    ):
        assert not allow.is_allowed(outside)


def test_rays_start_may_take_longer_than_its_own_bound():
    """On a loaded machine 30 s were too few, for a head as for what this package starts itself."""
    script = '. infra/ray/environment.sh && printf %s "$RAY_raylet_start_wait_time_s"'
    done = subprocess.run(["sh", "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=120, check=True)
    wanted = FOR_START["RAY_raylet_start_wait_time_s"]
    assert done.stdout == wanted
    for name in OVERLAYS:
        maps = {thing["metadata"]["name"]: thing["data"] for thing in overlay(name) if thing["kind"] == "ConfigMap"}
        assert maps["m2f-batch-environment"]["RAY_raylet_start_wait_time_s"] == wanted


def test_pods_and_machines_are_told_the_same():
    assert of_pods() == of_machines()


def test_the_laptops_preset_is_no_clusters():
    for name in OVERLAYS:
        assert f"{LAPTOP}.yaml" not in yaml.safe_dump([*of_ray(overlay(name))])


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda file: file.stem)
def test_no_machine_starts_ray_without_the_list(file):
    tree = yaml.safe_load(file.read_text())
    assert tree["file_mounts"].get("~/m2f-batch") == "." or tree["file_mounts"]["~/m2f-batch/infra/ray"] == "infra/ray"
    assert (INFRA / "ray" / "environment.sh").is_file()
    for side in ("head", "worker"):
        (start,) = (line for line in tree[f"{side}_start_ray_commands"] if "ray start" in line)
        before, found, _ = start.partition(". ~/m2f-batch/infra/ray/environment.sh && ")
        assert found and "ray start" not in before  # "&&": without the file, no Ray
