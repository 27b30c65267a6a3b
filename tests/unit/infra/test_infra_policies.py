"""Who reaches whom through the network policies as kubectl renders them, by labels and addresses of real clusters."""

import copy
import ipaddress
from dataclasses import dataclass, field

import pytest
import yaml
from conftest import SHARED
from support.infra_files import INFRA, OVERLAYS, overlay

OURS = "m2f-batch"
NAMESPACE = "kubernetes.io/metadata.name"  # Kubernetes itself labels each namespace so


@dataclass(frozen=True)
class Pod:
    """A pod by its namespace and labels, as policies see it."""

    namespace: str
    labels: dict[str, str] = field(default_factory=dict)


HEAD = Pod(OURS, {"ray.io/node-type": "head", "ray.io/cluster": "m2f-batch"})
WORKER = Pod(OURS, {"ray.io/node-type": "worker", "ray.io/cluster": "m2f-batch"})
SUBMITTER = Pod(OURS, {"batch.kubernetes.io/job-name": "m2f-batch-nightly-1"})
# KubeRay 1.6.2 and 1.7.0: ray-operator/config/default, the labels of the Helm chart, and where documents install them
COMPONENT = {"app.kubernetes.io/component": "kuberay-operator"}
KUSTOMIZE = {"app.kubernetes.io/name": "kuberay", **COMPONENT}
CHART = {"app.kubernetes.io/name": "kuberay-operator", "app.kubernetes.io/instance": "kuberay-operator", **COMPONENT}
OPERATORS = {
    "kustomize": Pod("default", KUSTOMIZE),
    "Helm, documents of 1.6, SageMaker HyperPod": Pod("default", CHART),
    "Helm, documents of 1.7": Pod("ray-system", CHART),
    "Helm, a release and a namespace of one's own": Pod("ops", {**CHART, "app.kubernetes.io/instance": "ray"}),
    "OpenShift AI": Pod("redhat-ods-applications", COMPONENT),
}
COREDNS = Pod("kube-system", {"k8s-app": "kube-dns"})
NODE_LOCAL_DNS = Pod("kube-system", {"k8s-app": "node-local-dns"})
PROMETHEUS = Pod("monitoring", {"app.kubernetes.io/name": "prometheus"})
STRANGER = Pod("default", {"app": "web"})
IMPOSTOR = Pod(OURS + "-2", {"ray.io/node-type": "head"})
METADATA, DNS_CACHE, POD_IDENTITY = "169.254.169.254", "169.254.20.10", "169.254.170.23"
S3, STS, GOOGLE = "52.219.170.1", "54.239.54.1", "199.36.153.8"  # s3, sts of eu-central-1; private.googleapis.com
API_SERVER, IN_CLUSTER = "10.100.0.1", "10.0.3.7"

# (who, whom, protocol, port), as a case is told
ALLOWED = {
    **{f"operator to head: {how}": (pod, HEAD, "TCP", 8265) for how, pod in OPERATORS.items()},
    "driver to worker": (HEAD, WORKER, "TCP", 10002),
    "worker to head": (WORKER, HEAD, "TCP", 6379),
    "worker to worker": (WORKER, WORKER, "TCP", 34567),
    "submitter to head": (SUBMITTER, HEAD, "TCP", 8265),
    "prometheus to head": (PROMETHEUS, HEAD, "TCP", 8080),
    "prometheus to worker": (PROMETHEUS, WORKER, "TCP", 8080),
    "head to the API server": (HEAD, API_SERVER, "TCP", 443),
    "head to a kubeadm API server": (HEAD, IN_CLUSTER, "TCP", 6443),
    **{
        f"{name} to {what}": (pod, whom, protocol, port)
        for name, pod in (("worker", WORKER), ("head", HEAD), ("submitter", SUBMITTER))
        for what, whom, protocol, port in (
            ("CoreDNS", COREDNS, "UDP", 53),
            ("CoreDNS by TCP", COREDNS, "TCP", 53),
            ("pods of NodeLocal DNSCache", NODE_LOCAL_DNS, "UDP", 53),
            ("NodeLocal DNSCache", DNS_CACHE, "UDP", 53),
            ("NodeLocal DNSCache by TCP", DNS_CACHE, "TCP", 53),
            ("Cloud DNS", METADATA, "UDP", 53),
            ("S3", S3, "TCP", 443),
            ("STS (IRSA)", STS, "TCP", 443),
            ("Google's APIs", GOOGLE, "TCP", 443),
            ("EKS Pod Identity", POD_IDENTITY, "TCP", 80),
        )
    },
}
REFUSED = {
    **{f"operator to a worker: {how}": (pod, WORKER, "TCP", 8265) for how, pod in OPERATORS.items()},
    **{f"operator to the GCS: {how}": (pod, HEAD, "TCP", 6379) for how, pod in OPERATORS.items()},
    "stranger to head": (STRANGER, HEAD, "TCP", 8265),
    "stranger to the GCS": (STRANGER, HEAD, "TCP", 6379),
    "stranger to a worker": (STRANGER, WORKER, "TCP", 10002),
    "another namespace's Ray": (IMPOSTOR, HEAD, "TCP", 6379),
    "a stranger beside Prometheus asks for more than metrics": (PROMETHEUS, HEAD, "TCP", 8265),
    "an address outside to head": (S3, HEAD, "TCP", 8265),
    "worker to the API server": (WORKER, API_SERVER, "TCP", 443),
    "worker to another service": (WORKER, IN_CLUSTER, "TCP", 443),
    "worker to a stranger": (WORKER, STRANGER, "TCP", 8080),
    "worker to S3 without TLS": (WORKER, S3, "TCP", 80),
    "worker to a mail server": (WORKER, S3, "TCP", 25),
    "worker to a DNS server outside": (WORKER, "8.8.8.8", "UDP", 53),
    "worker to DNS of another name": (WORKER, Pod("default", {"k8s-app": "kube-dns"}), "UDP", 53),
    "worker to CoreDNS' metrics": (WORKER, COREDNS, "TCP", 9153),
    "worker to a carrier's network": (WORKER, "100.64.1.1", "TCP", 443),
    **{
        f"{name} to {what}": (pod, address, "TCP", port)
        for name, pod in (("worker", WORKER), ("head", HEAD), ("submitter", SUBMITTER))
        for what, address, port in (
            ("the node's keys", METADATA, 80),
            ("the node's keys by TLS", METADATA, 443),
            ("ECS' keys", "169.254.170.2", 80),
            ("Pod Identity's other ports", POD_IDENTITY, 2703),
            ("GKE's other metadata port", "169.254.169.252", 988),
        )
    },
}
OF_GKE = {
    "the metadata server": (WORKER, METADATA, "TCP", 80),
    "the metadata server of the head": (HEAD, METADATA, "TCP", 80),
    "the same behind a port": (WORKER, "169.254.169.252", "TCP", 988),
}


def policies_of(name):
    return [thing for thing in overlay(name) if thing["kind"] == "NetworkPolicy"]


def selects(selector, labels):
    """Whether a label selector of Kubernetes takes what has these labels."""
    by_name = selector.get("matchLabels", {}).items() <= labels.items()
    return by_name and all(
        {
            "In": lambda each: labels.get(each["key"]) in each["values"],
            "NotIn": lambda each: labels.get(each["key"]) not in each["values"],
            "Exists": lambda each: each["key"] in labels,
            "DoesNotExist": lambda each: each["key"] not in labels,
        }[each["operator"]](each)
        for each in selector.get("matchExpressions", [])
    )


def is_within(address, blocks):
    """Whether an address lies in one of some blocks."""
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(block) for block in blocks)


def is_peer(peer, other, namespace):
    """Whether a peer of a policy in ``namespace`` is this pod, or holds this address."""
    if isinstance(other, str):
        blocks = [peer["ipBlock"]["cidr"]] if "ipBlock" in peer else []
        return is_within(other, blocks) and not is_within(other, peer["ipBlock"].get("except", []))
    if "ipBlock" in peer:
        return False  # of addresses outside the cluster only, as Kubernetes recommends to read it
    if "namespaceSelector" in peer:
        in_namespace = selects(peer["namespaceSelector"], {NAMESPACE: other.namespace})
    else:
        in_namespace = other.namespace == namespace
    return in_namespace and selects(peer.get("podSelector", {}), other.labels)


def passes(policies, side, pod, other, protocol, port):
    """Whether the policies of ``pod`` let it send (``egress``) or take (``ingress``); without any, all passes."""
    if isinstance(pod, str):
        return True
    of_pod = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and selects(policy["spec"]["podSelector"], pod.labels)
        and side.capitalize() in policy["spec"]["policyTypes"]
    ]
    return not of_pod or any(
        any(is_peer(peer, other, pod.namespace) for peer in rule["to" if side == "egress" else "from"])
        and ("ports" not in rule or {"protocol": protocol, "port": port} in rule["ports"])
        for spec in of_pod
        for rule in spec.get(side, [])
    )


def reaches(policies, who, whom, protocol, port):
    """Both ends must agree."""
    return passes(policies, "egress", who, whom, protocol, port) and passes(
        policies, "ingress", whom, who, protocol, port
    )


def wrong(policies, allowed, refused):
    """The cases that the policies decide otherwise."""
    return {case for case, ends in allowed.items() if not reaches(policies, *ends)} | {
        case for case, ends in refused.items() if reaches(policies, *ends)
    }


@pytest.mark.parametrize("name", OVERLAYS)
def test_who_reaches_what(name):
    assert wrong(policies_of(name), ALLOWED, REFUSED) == set()


def test_gke_opens_its_metadata_server_and_nothing_else():
    gke = [*yaml.safe_load_all((INFRA / "kubernetes" / "gke.yaml").read_text())]
    opened = [ends[1:] for ends in OF_GKE.values()]
    closed = {case: ends for case, ends in REFUSED.items() if ends[1:] not in opened}
    assert len(REFUSED) - len(closed) == 6  # two addresses, three pods
    assert wrong([*policies_of("cluster"), *gke], {**ALLOWED, **OF_GKE}, closed) == set()
    assert wrong(policies_of("cluster"), OF_GKE, {}) == OF_GKE.keys()


CONTROLLER = Pod("traefik", {"app.kubernetes.io/name": "traefik", "app.kubernetes.io/instance": "traefik-traefik"})
THROUGH_THE_INGRESS = {"the controller to the Jobs API": (CONTROLLER, HEAD, "TCP", 8265)}
NOT_THROUGH_THE_INGRESS = {
    "the controller to the GCS": (CONTROLLER, HEAD, "TCP", 6379),
    "the controller to Ray Client": (CONTROLLER, HEAD, "TCP", 10001),
    "the controller to metrics": (CONTROLLER, HEAD, "TCP", 8080),
    "the controller to a worker": (CONTROLLER, WORKER, "TCP", 8265),
    "the controller to a job's own cluster": (
        CONTROLLER,
        Pod(OURS, {**HEAD.labels, "ray.io/cluster": "m2f-batch-segment-abc"}),
        "TCP",
        8265,
    ),
    "another pod beside the controller": (Pod("traefik", {"app": "web"}), HEAD, "TCP", 8265),
    "a pod that calls itself the controller": (Pod("default", CONTROLLER.labels), HEAD, "TCP", 8265),
}


def ingress():
    """The Ingress, and the policy that stands beside it."""
    return [*yaml.safe_load_all((INFRA / "kubernetes" / "ingress.yaml").read_text())]


def test_the_ingress_controller_reaches_the_jobs_api_and_nothing_else():
    _, opened = ingress()
    refused = {**REFUSED, **NOT_THROUGH_THE_INGRESS}
    assert wrong(policies_of("cluster"), THROUGH_THE_INGRESS, refused) == THROUGH_THE_INGRESS.keys()
    assert wrong([*policies_of("cluster"), opened], {**ALLOWED, **THROUGH_THE_INGRESS}, refused) == set()
    for selector, found in (
        ("podSelector", {"another pod beside the controller"}),
        ("namespaceSelector", {*THROUGH_THE_INGRESS}),  # what is left takes pods of our own namespace
    ):
        broken = copy.deepcopy(opened)
        del broken["spec"]["ingress"][0]["from"][0][selector]
        assert wrong([*policies_of("cluster"), broken], THROUGH_THE_INGRESS, refused) == found, selector


def test_the_ingress_ends_tls_for_the_address_that_recipes_name():
    door, opened = ingress()
    (rule,), (tls,) = door["spec"]["rules"], door["spec"]["tls"]
    (path,) = rule["http"]["paths"]
    cluster = next(thing for thing in overlay("cluster") if thing["kind"] == "RayCluster")
    assert path["backend"]["service"] == {"name": f"{cluster['metadata']['name']}-head-svc", "port": {"number": 8265}}
    assert opened["spec"]["podSelector"]["matchLabels"]["ray.io/cluster"] == cluster["metadata"]["name"]
    assert {door["metadata"]["namespace"], opened["metadata"]["namespace"]} == {cluster["metadata"]["namespace"]}
    assert cluster["spec"]["authOptions"]["mode"] == "token", "whoever gets through has to have it"
    assert tls["hosts"] == [rule["host"]] and tls["secretName"]
    assert door["metadata"]["annotations"]["traefik.ingress.kubernetes.io/router.entrypoints"] == "websecure"
    for file in ("crontab", "dagster_nightly.py"):
        text = (INFRA / "schedulers" / file).read_text()
        assert f"RAY_API_SERVER_ADDRESS=https://{rule['host']}" in text and "infra/kubernetes/ingress.yaml" in text


def test_the_operators_are_those_that_were_read():
    """The table of how KubeRay's operator is installed, where it is beside the checkout."""
    file = SHARED / "k8s" / "operators.md"
    if not file.is_file():
        pytest.skip("operators.md is not beside this checkout")
    table = file.read_text()
    labels = {f"{key}: {value}" for pod in OPERATORS.values() for key, value in pod.labels.items()}
    assert {each for each in labels if "instance" not in each} <= {each for each in labels if f"`{each}`" in table}
    assert all(f"`{namespace}`" in table for namespace in ("default", "ray-system"))


def everyone(policies):
    return next(each["spec"] for each in policies if each["metadata"]["name"] == "m2f-batch")


def of_head(policies):
    return next(each["spec"] for each in policies if each["metadata"]["name"] == "m2f-batch-head")


def operator_by_old_namespace(policies):
    (peer,) = of_head(policies)["ingress"][0]["from"]
    peer["namespaceSelector"] = {"matchLabels": {NAMESPACE: "kuberay-system"}}


def operator_by_name(policies):
    (peer,) = of_head(policies)["ingress"][0]["from"]
    peer["podSelector"] = {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}


def operator_is_anybody(policies):
    (peer,) = of_head(policies)["ingress"][0]["from"]
    del peer["podSelector"]


def dns_of_pods_only(policies):
    everyone(policies)["egress"][1]["to"].pop()


def link_local_on_all_ports(policies):
    del everyone(policies)["egress"][1]["ports"]


def no_pod_identity(policies):
    del everyone(policies)["egress"][2]


def no_s3(policies):
    del everyone(policies)["egress"][3]


def private_addresses_too(policies):
    everyone(policies)["egress"][3]["to"][0]["ipBlock"]["except"] = ["169.254.0.0/16"]


def the_heads_metadata(policies):
    of_head(policies)["egress"][0]["to"][0]["ipBlock"]["except"] = []


def no_own_pods(policies):
    everyone(policies)["ingress"] = []


def no_egress_policy(policies):
    everyone(policies)["policyTypes"] = ["Ingress"]


BROKEN = {
    operator_by_old_namespace: {case for case in ALLOWED if case.startswith("operator")},
    operator_by_name: {case for case in ALLOWED if case.endswith(("kustomize", "OpenShift AI"))},
    operator_is_anybody: {"stranger to head", "a stranger beside Prometheus asks for more than metrics"},
    dns_of_pods_only: {case for case in ALLOWED if " to NodeLocal DNSCache" in case or case.endswith("Cloud DNS")},
    link_local_on_all_ports: {case for case in REFUSED if REFUSED[case][1] in (METADATA, POD_IDENTITY)}
    | {case for case in REFUSED if REFUSED[case][1] in ("169.254.170.2", "169.254.169.252", COREDNS)},
    no_pod_identity: {case for case in ALLOWED if case.endswith("Pod Identity")},
    no_s3: {case for case in ALLOWED if case.endswith(("to S3", "(IRSA)", "APIs")) and not case.startswith("head")},
    private_addresses_too: {"worker to the API server", "worker to another service", "worker to a carrier's network"},
    the_heads_metadata: {"head to the node's keys by TLS"},
    no_own_pods: {"driver to worker", "worker to head", "worker to worker", "submitter to head"},
    # what is left is the head's own policy of egress, which holds the head to its API server
    no_egress_policy: {case for case, ends in REFUSED.items() if ends[0] in (WORKER, SUBMITTER)}
    | {case for case, ends in ALLOWED.items() if ends[0] is HEAD and ends[3] not in (443, 6443)},
}


@pytest.mark.parametrize("breaking", BROKEN, ids=lambda each: each.__name__)
def test_a_policy_broken_on_purpose_is_found(breaking):
    policies = copy.deepcopy(policies_of("cluster"))
    breaking(policies)
    assert wrong(policies, ALLOWED, REFUSED) == BROKEN[breaking]
