"""Pods fit the machines that are named for them, know spot nodes of each cloud, and drain before they are gone."""

import copy
import re

import pytest
import yaml
from support.infra_files import INFRA, OVERLAYS, amount, cluster_spec, of_ray, overlay, pods
from test_infra_policies import selects

RAY = (INFRA / "kubernetes" / "base" / "ray.yaml").read_text()
GI = 1024
# (cores, MiB, pods at most, by EC2's interfaces and addresses: eni-max-pods.txt of amazon-eks-ami), as AWS sells them
EKS = {
    "c5.4xlarge": (16, 32 * GI, 234),
    "c6i.4xlarge": (16, 32 * GI, 234),
    "c7i.4xlarge": (16, 32 * GI, 234),
    "g5.2xlarge": (8, 32 * GI, 58),
    "g6.2xlarge": (8, 32 * GI, 58),
    "g5.4xlarge": (16, 64 * GI, 234),
    "g6.4xlarge": (16, 64 * GI, 234),
    "m6i.2xlarge": (8, 32 * GI, 58),
    "m7i.2xlarge": (8, 32 * GI, 58),
}
GKE = {
    "e2-standard-8": (8, 32 * GI),
    "g2-standard-8": (8, 32 * GI),
    "g2-standard-16": (16, 64 * GI),
    "n2-standard-16": (16, 64 * GI),
}
DISK_GB = {**dict.fromkeys(EKS, 100), **dict.fromkeys(GKE, 150)}
# what pods on every node ask for: network, DNS cache, disks, GPU plugin and exporter as EKS or GKE install them, 0.3 to
# 0.6 cores and 0.4 to 0.8 GiB; an agent for metrics and logs, 0.2 cores and 0.5 GiB
DAEMONSETS = {"cpu": 0.8, "memory": 1.5 * GI}
NAMED = re.compile(r"\b[a-z]\d[a-z]*\.\d*x?large\b|\b[a-z]\d-(?:standard|highcpu|highmem)-\d+\b")


def allocatable(machine):
    """Cores, MiB and GiB of disk that pods can be given.

    EKS: karpenter.sh/docs/reference/instance-types by its formula: 7.5 % for the hypervisor, 255 MiB, 11 per pod, 100
    to evict at. GKE: cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes: 25 % of the first 4 GiB, 20 % of
    the next 4, 10 % of 8, 6 % of 112, 100 MiB to evict at; and 2 % that the kernel of a machine does not show. Cores of
    both: 6 % of the first, 1 % of the second, 0.5 % of two, 0.25 % of the rest.
    """
    cores, memory = (EKS.get(machine) or GKE[machine])[:2]
    kept_cores = 0.06 + 0.01 + 2 * 0.005 + 0.0025 * (cores - 4)
    disk = DISK_GB[machine] * 1e9 / 2**30
    if machine in EKS:
        return cores - kept_cores, memory * 0.925 - (255 + 11 * EKS[machine][2]) - 100, disk * 0.9 - 1
    steps = ((4, 0.25), (4, 0.2), (8, 0.1), (112, 0.06))
    left, kept = memory / GI, 0.0
    for size, share in steps:
        kept += min(left, size) * share
        left -= min(left, size)
    return cores - kept_cores, memory * 0.98 - kept * GI - 100, disk * 0.9 - min(disk / 2, 6 + 0.35 * disk)


def test_the_table_is_what_karpenter_publishes():
    """Cores and MiB of karpenter.sh/docs/reference/instance-types."""
    published = {"c7i.4xlarge": (15.89, 27381), "g6.4xlarge": (15.89, 57691), "g6.2xlarge": (7.91, 29317)}
    for machine, (cores, memory) in published.items():
        assert allocatable(machine)[:2] == (pytest.approx(cores), pytest.approx(memory, abs=1))


def too_large(requests, machine):
    """What of the requests a machine has not left beside the daemonsets."""
    cores, memory, disk = allocatable(machine)
    asked = {
        "cpu": (amount(requests["cpu"]), cores - DAEMONSETS["cpu"]),
        "memory": (amount(requests["memory"], GI), memory - DAEMONSETS["memory"]),
        "ephemeral-storage": (amount(requests.get("ephemeral-storage", 0)), disk),
    }
    return {what for what, (wanted, there) in asked.items() if wanted > there}


def of_group(name):
    """The text of a group in ray.yaml: its head, or a worker group."""
    head, *groups = re.split(r"(?m)^    - groupName: ", RAY.partition("headGroupSpec:")[2])
    return head if name == "head" else next(text for text in groups if text.startswith(name))


def requests_of(name):
    """What the pod of a group asks for; the head's with its autoscaler, to which KubeRay gives autoscalerOptions."""
    (thing,) = of_ray(overlay("segment-spot"))
    (container,) = dict(pods(thing))[name]["containers"]
    asked = dict(container["resources"]["requests"])
    if name == "head":
        more = cluster_spec(thing)["autoscalerOptions"]["resources"]["requests"]
        asked["cpu"] = amount(asked["cpu"]) + amount(more["cpu"])
        asked["memory"] = f"{amount(asked['memory']) + amount(more['memory'])}Gi"
    return asked


@pytest.mark.parametrize("name", ["head", "gpu", "cpu"])
def test_pods_fit_the_machines_that_are_named_for_them(name):
    machines = NAMED.findall(of_group(name).partition("Where a run says")[0])
    assert len(machines) >= 3
    launched = yaml.safe_load((INFRA / "ray" / "aws.yaml").read_text())["available_node_types"]
    if name != "head":  # there it is a machine without pods, which the launcher starts with all that it has
        machines.append(launched[name]["node_config"]["InstanceType"])
    assert {machine: too_large(requests_of(name), machine) for machine in machines} == {
        each: set() for each in machines
    }


def test_the_larger_machines_hold_what_the_comment_takes_them_for():
    comment = of_group("gpu").partition("Where a run says")[2].partition("resources:")[0]
    cpu, memory, shm = re.search(r'cpu "(\d+)", memory (\w+), shm (\w+)', comment).groups()
    requests = {**requests_of("gpu"), "cpu": cpu, "memory": memory}
    machines = NAMED.findall(comment)
    assert len(machines) == 3
    assert {machine: too_large(requests, machine) for machine in machines} == {each: set() for each in machines}
    assert 0.3 < amount(shm) / amount(memory) < 0.5  # Ray's object store takes 0.3 of the memory


def test_what_was_asked_for_before_is_found(monkeypatch):
    """28 GiB of c7i.4xlarge, which has 26.7; 56 GiB of g6.4xlarge, which left 347 MiB; 100 GB of disk on GKE."""
    assert too_large({"cpu": "14", "memory": "28Gi"}, "c7i.4xlarge") == {"memory"}
    assert too_large({"cpu": "14", "memory": "56Gi"}, "g6.4xlarge") == {"memory"}
    assert too_large({"cpu": "8", "memory": "24Gi"}, "g6.2xlarge") == {"cpu"}
    monkeypatch.setitem(DISK_GB, "g2-standard-8", 100)
    assert too_large(requests_of("gpu"), "g2-standard-8") == {"ephemeral-storage"}


def test_the_machine_is_the_one_that_sizing_asks_for():
    """A GPU of the example wants 2 cores for fetching and decoding; presets have 8 of a node, 1 of them Kubernetes'."""
    sizing = (INFRA / "SIZING.md").read_text()
    assert re.search(r"1\.4: take 2 \(the 8 of the presets", sizing)
    for file in ("segment", "finetune", "finetune-eight"):
        comment = (INFRA.parent / "jobs" / f"{file}.yaml").read_text()
        assert re.search(r"8 CPU\s+(#\s+)?cores", comment), file
    assert amount(requests_of("gpu")["cpu"]) == 7


# ---- Karpenter, whose own disk is too small

KARPENTER = [*yaml.safe_load_all((INFRA / "kubernetes" / "karpenter.yaml").read_text())]


def pool(name):
    """Labels that nodes of a NodePool may have, by label, and its taints."""
    (spec,) = (each["spec"]["template"]["spec"] for each in KARPENTER if each["metadata"]["name"] == name)
    assert spec["nodeClassRef"] == {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "m2f-batch"}
    return {each["key"]: each["values"] for each in spec["requirements"]}, spec.get("taints", [])


def test_karpenters_nodes_are_those_of_the_table_and_take_the_pods():
    node_class = next(each["spec"] for each in KARPENTER if each["kind"] == "EC2NodeClass")
    (disk,) = node_class["blockDeviceMappings"]
    assert disk["deviceName"] == "/dev/xvda" and amount(disk["ebs"]["volumeSize"]) >= 100  # GiB, DISK_GB are fewer
    assert node_class["metadataOptions"] == {"httpTokens": "required", "httpPutResponseHopLimit": 1}
    (thing,) = of_ray(overlay("segment-spot"))
    by_name = dict(pods(thing))
    for name, groups in (("m2f-batch-gpu", ["gpu"]), ("m2f-batch-cpu", ["head", "cpu"])):
        labels, taints = pool(name)
        machines = labels["node.kubernetes.io/instance-type"]
        for group in groups:
            assert any(not too_large(requests_of(group), machine) for machine in machines), group
            capacities = labels["karpenter.sh/capacity-type"]
            taken = {each for each in capacities if may_be_on(by_name[group], {"karpenter.sh/capacity-type": each})}
            assert taken == {"on-demand" if group == "head" else "spot"}
            tolerated = {each["key"] for each in by_name[group].get("tolerations", [])}
            assert {each["key"] for each in taints} <= tolerated, group
        named = {machine for group in groups for machine in NAMED.findall(of_group(group).partition("Where a run")[0])}
        assert {*machines} == named & EKS.keys()


def test_karpenters_own_disk_holds_no_worker(monkeypatch):
    """20 GiB, of which 17 are for pods."""
    monkeypatch.setitem(DISK_GB, "g6.2xlarge", 20 * 2**30 / 1e9)
    assert allocatable("g6.2xlarge")[2] == pytest.approx(17)
    assert too_large(requests_of("gpu"), "g6.2xlarge") == {"ephemeral-storage"}


# ---- one zone


@pytest.mark.parametrize("zone", ["eu-central-1a", "eu-central-1b"])
def test_one_line_keeps_a_job_in_one_zone(zone):
    """What the comment of ray.yaml puts in place of ``{}``."""
    (pin,) = re.findall(r"in one zone: (\{.*?\})", RAY)
    assert yaml.safe_load(pin) == {"topology.kubernetes.io/zone": "eu-central-1a"}
    pinned = yaml.safe_load(RAY.replace("nodeSelector: &zone {}", f"nodeSelector: &zone {pin}"))
    for group, pod in pods(pinned):
        if group != "submitter":
            labels = next(
                labels
                for labels in [*SPOT.values(), *ON_DEMAND.values()]
                if may_be_on({**pod, "nodeSelector": {}}, labels)
            )
            assert may_be_on(pod, {**labels, "topology.kubernetes.io/zone": zone}) == (zone == "eu-central-1a"), group


# ---- spot and on demand: the labels that clouds and autoscalers give their nodes

SPOT = {
    "EKS managed node group": {"eks.amazonaws.com/capacityType": "SPOT"},
    "Karpenter, EKS Auto Mode": {"karpenter.sh/capacity-type": "spot"},
    "GKE": {"cloud.google.com/gke-spot": "true", "cloud.google.com/gke-provisioning": "spot"},
    "GKE before 1.25": {"cloud.google.com/gke-spot": "true"},
    "AKS": {"kubernetes.azure.com/scalesetpriority": "spot"},
}
ON_DEMAND = {
    "EKS managed node group": {"eks.amazonaws.com/capacityType": "ON_DEMAND"},
    "Karpenter, EKS Auto Mode": {"karpenter.sh/capacity-type": "on-demand"},
    "Karpenter, a reservation": {"karpenter.sh/capacity-type": "reserved"},
    "GKE": {"cloud.google.com/gke-provisioning": "standard"},
    "a node of one's own": {},
}
TAINTED = {
    "GKE": ("cloud.google.com/gke-spot", "NoSchedule"),
    "AKS": ("kubernetes.azure.com/scalesetpriority", "NoSchedule"),
}


def may_be_on(pod, labels):
    """Whether node selector and required node affinity of a pod take a node with these labels."""
    labels = {"kubernetes.io/hostname": "node-1", "nvidia.com/gpu.present": "true", **labels}
    required = pod.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    terms = [{}] if required is None else required["nodeSelectorTerms"]
    return pod.get("nodeSelector", {}).items() <= labels.items() and any(selects(term, labels) for term in terms)


def astray(pod, is_spot):
    """The nodes on which a pod may be and should not, or the other way round."""
    return {f"spot: {name}" for name, labels in SPOT.items() if may_be_on(pod, labels) != is_spot} | {
        f"on demand: {name}" for name, labels in ON_DEMAND.items() if may_be_on(pod, labels) == is_spot
    }


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_head_is_on_demand_and_workers_are_on_spot_wherever_they_run(name):
    (thing,) = of_ray(overlay(name))
    for pod, spec in pods(thing):
        if pod != "submitter":
            assert astray(spec, is_spot=pod != "head") == set(), pod
        if pod not in ("submitter", "head"):
            tolerated = {(each["key"], each["effect"]) for each in spec["tolerations"] if each["operator"] == "Exists"}
            assert set(TAINTED.values()) <= tolerated


def test_selectors_of_one_cloud_are_found():
    (thing,) = of_ray(overlay("segment-spot"))
    by_name = copy.deepcopy(dict(pods(thing)))
    for name in ("head", "gpu"):
        del by_name[name]["affinity"]["nodeAffinity"]
    by_name["head"]["nodeSelector"] = {"eks.amazonaws.com/capacityType": "ON_DEMAND"}
    by_name["gpu"]["nodeSelector"] = {"eks.amazonaws.com/capacityType": "SPOT"}
    assert astray(by_name["head"], is_spot=False) == {f"on demand: {each}" for each in [*ON_DEMAND][1:]}
    assert astray(by_name["gpu"], is_spot=True) == {f"spot: {each}" for each in [*SPOT][1:]}


# ---- a node that is taken away


def test_workers_drain_by_ray_itself_and_in_time():
    """A preStop would keep SIGTERM from ``ray start --block``, which drains its node: 4 units lost against none."""
    for name in OVERLAYS:
        (environment,) = (each for each in overlay(name) if each["metadata"]["name"] == "m2f-batch-environment")
        seconds = float(environment["data"]["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        for pod, spec in pods(*of_ray(overlay(name))):
            (container,) = spec["containers"]
            if pod in ("submitter", "submit"):
                continue
            assert ("lifecycle" in container) == (pod == "head")
            if pod != "head":
                assert {"configMapRef": {"name": "m2f-batch-environment"}} in container["envFrom"]
                assert 15 < seconds <= spec["terminationGracePeriodSeconds"] - 10  # what Ray's own end takes


def test_karpenter_may_drain_workers_and_moves_no_head():
    """What may not be disrupted is not evicted after a spot notice either: karpenter.sh/docs/concepts/disruption."""

    def marked(template):
        return "karpenter.sh/do-not-disrupt" in template["metadata"].get("annotations", {})

    def clusters(value):
        if isinstance(value, dict):
            if "headGroupSpec" in value:
                yield value
            value = [*value.values()]
        for each in value if isinstance(value, list) else []:
            yield from clusters(each)

    seen = [
        (marked(one["headGroupSpec"]["template"]), [marked(group["template"]) for group in one["workerGroupSpecs"]])
        for name in OVERLAYS
        for document in overlay(name)
        for one in clusters(document)
    ]
    assert seen and {head for head, _ in seen} == {True} and {each for _, groups in seen for each in groups} == {False}


def test_the_drain_of_gke_is_shorter_than_its_notice():
    """GKE gives spot pods 15 s: cloud.google.com/kubernetes-engine/docs/concepts/spot-vms."""
    text = (INFRA / "kubernetes" / "base" / "kustomization.yaml").read_text()
    (notice, drain) = re.search(r"Spot pods of GKE get (\d+) s.*?: there (\d+)", text).groups()
    assert (int(notice), int(drain)) == (15, 12)


def test_ray_knows_the_variable_of_the_drain():
    from ray._private import ray_constants

    assert ray_constants.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S == 30  # its default, which the environment replaces
