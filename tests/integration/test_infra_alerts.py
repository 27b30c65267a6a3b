"""The alerts, by Prometheus' own tool, over made series: who is warned, and who is not."""

import re
import subprocess

import pytest
import yaml
from support.debian import program
from support.infra_files import INFRA

NIGHTLY = "s3://my-bucket/labels"
FILES = ("alerts.yml", "alerts-machines.yml")


def of_run(name, values, worker=1, **labels):
    """A series of a run."""
    pairs = {"run": "a", **labels, "WorkerId": worker}
    text = ",".join(f'{key}="{value}"' for key, value in pairs.items())
    return {"series": f"ray_m2f_batch_{name}{{{text}}}", "values": values}


def remaining(values, worker=1):
    return of_run("images_remaining", values, worker)


def images(status, values):
    return of_run("images_total", values, status=status)


def gpu(values, index=0):
    labels = f'ip="10.0.0.7",GpuDeviceName="NVIDIA L4",GpuIndex="{index}",SessionName="s",cluster="c",pod="p"'
    return {"series": f"ray_node_gpus_utilization{{{labels}}}", "values": values}


def cron(name, values):
    labels = 'namespace="m2f-batch",cronjob="m2f-batch-nightly",job="kube-state-metrics"'
    return {"series": f"kube_cronjob_{name}{{{labels}}}", "values": values}


def ray_job(status, values, name="m2f-batch-nightly-17"):
    labels = f'namespace="m2f-batch",name="{name}",uid="u-{name}",deployment_status="{status}",job="kuberay"'
    return {"series": f"kuberay_job_deployment_status{{{labels}}}", "values": values}


def alert(name, summary, /, **labels):
    """One that is expected, with its labels beside the severity, and its first line."""
    return name, summary, labels


def case(name, at, series, *warned, file="alerts.yml"):
    """At the time ``at`` these alerts are firing, and none of the file's others."""
    return {"name": name, "at": at, "series": series, "warned": warned, "file": file}


NIGHT = "m2f-batch-nightly"
MACHINE = {
    "series": f'ray_m2f_batch_last_success_timestamp_seconds{{run="{NIGHTLY}",WorkerId="1"}}',
    "values": "0 _x3000",
}
GOES_ON = [remaining("10000-10x200"), images("ok", "0+10x200"), images("error", "0+0.4x200")]
CASES = [
    # the run itself
    case("goes on", "2h", [*GOES_ON, of_run("waiting_seconds", "30 0x200"), of_run("retries_total", "0+1x200")]),
    case("its first node is on its way", "19m", [of_run("waiting_seconds", "0+60x30")]),
    case(
        "its first node does not come",
        "25m",
        [of_run("waiting_seconds", "0+60x30")],
        alert("M2fBatchWaits", "a: no node has given it a first result for 25m 0s", run="a"),
    ),
    case("its first node came late", "25m", [of_run("waiting_seconds", "0+60x20 0x30"), *GOES_ON]),
    case(
        "stalls",
        "60m",
        [remaining("10000-10x20 9800x200")],
        alert("M2fBatchStalled", "a: 9800 images remain, and none was done for 30 minutes", run="a"),
    ),
    case("has stood still for 29 minutes", "29m", [remaining("9800x200")]),
    case(
        "was killed",
        "40m",
        [remaining("9800x10 _x100")],
        alert("M2fBatchGone", "a: its process has gone, and 9800 images remain", run="a"),
    ),
    case("was killed, and another attempt ended", "60m", [remaining("9800x10 _x100"), remaining("_x12 500 0 _x90", 2)]),
    case(
        "has many errors",
        "2h",
        [images("ok", "0+10x200"), images("error", "0+1x200")],
        alert("M2fBatchErrors", "a: 9.091% of the images of the last hour failed", run="a"),
    ),
    case("has many strangers", "2h", [images("ok", "0+10x200"), images("stranger", "0+5x200")]),
    case(
        "has errors among many strangers",
        "2h",
        [images("ok", "0+10x200"), images("error", "0+1x200"), images("stranger", "0+50x200")],
        alert("M2fBatchErrors", "a: 9.091% of the images of the last hour failed", run="a"),
    ),
    case(
        "a first window of errors, whose counters never rise again",
        "6m",
        [images("ok", "_x2 12x200"), images("error", "_x2 188x200")],
        alert("M2fBatchErrors", "a: 94% of the images of the last hour failed", run="a"),
    ),
    case("its few errors are long ago", "3h", [images("ok", "0+10x200"), images("error", "0+1x60 60x200")]),
    case("has failed with its first images", "6m", [images("ok", "_x2 3x200"), images("error", "_x2 29x200")]),
    # a deadline
    case(
        "will be late",
        "20m",
        [*GOES_ON, of_run("eta_timestamp_seconds", "20000x200"), of_run("deadline_timestamp_seconds", "12800x200")],
        alert("M2fBatchLate", "a: it will be 2h 0m 0s late for run.deadline, at its rate", run="a"),
    ),
    case(
        "will be in time",
        "20m",
        [*GOES_ON, of_run("eta_timestamp_seconds", "12000x200"), of_run("deadline_timestamp_seconds", "12800x200")],
    ),
    case("has no deadline", "20m", [*GOES_ON, of_run("eta_timestamp_seconds", "99999x200")]),
    case(
        "is late before its first image",
        "40m",
        [of_run("deadline_timestamp_seconds", "1200x200")],
        alert("M2fBatchLate", "a: it will be 20m 0s late for run.deadline, at its rate", run="a"),
    ),
    # storage and nodes
    case(
        "is throttled",
        "30m",
        [*GOES_ON, of_run("retries_total", "0+50x200")],
        alert(
            "M2fBatchThrottled",
            "a: 750 requests to storage were repeated in 15 minutes, one or more for 5 images",
            run="a",
        ),
    ),
    case(
        "is throttled so that nothing comes",
        "10m",
        [of_run("retries_total", "300x200")],
        alert(
            "M2fBatchThrottled",
            "a: 300 requests to storage were repeated in 15 minutes, one or more for 5 images",
            run="a",
        ),
    ),
    case("was throttled at its start", "60m", [*GOES_ON, of_run("retries_total", "0+50x10 500x200")]),
    case(
        "loses half of its nodes",
        "20m",
        [*GOES_ON, of_run("replicas", "8x200"), of_run("nodes_lost_total", "_x10 4x200")],
        alert("M2fBatchPreemptions", "a: 4 nodes were lost in 30 minutes, one for two replicas or more", run="a"),
    ),
    case(
        "loses nodes before it has a replica",
        "20m",
        [of_run("nodes_lost_total", "_x10 3x200")],
        alert("M2fBatchPreemptions", "a: 3 nodes were lost in 30 minutes, one for two replicas or more", run="a"),
    ),
    case(
        "loses few of many", "20m", [*GOES_ON, of_run("replicas", "100x200"), of_run("nodes_lost_total", "_x10 4x200")]
    ),
    case("has lost nodes", "60m", [*GOES_ON, of_run("replicas", "8x200"), of_run("nodes_lost_total", "_x10 4x200")]),
    # GPUs
    case(
        "a GPU idles, and its neighbor does not",
        "35m",
        [gpu("0x200"), gpu("80x200", 1)],
        alert(
            "M2fBatchGpuIdle",
            "10.0.0.7: GPU 0 (NVIDIA L4) has idled for 30 minutes",
            **{"cluster": "c", "pod": "p", "ip": "10.0.0.7", "GpuDeviceName": "NVIDIA L4", "GpuIndex": "0"},
        ),
    ),
    case("a GPU has idled for 25 minutes", "35m", [gpu("70x10 0x200")]),
    case("a GPU has come 20 minutes ago", "35m", [gpu("_x15 0x200")]),
    case("a GPU works in bursts", "60m", [gpu("0 0 0 40 0 0 0 40 0 0 0 40 0 0 0 40x200")]),
    # nights on Kubernetes
    case("was well last night", "29h", [cron("created", "0x2400"), cron("status_last_successful_time", "0x2400")]),
    case(
        "was not well last night",
        "32h",
        [cron("created", "0x2400"), cron("status_last_successful_time", "0x2400")],
        alert("M2fBatchNoSuccess", f"{NIGHT}: no night was done for 1d 8h 0m 0s", namespace="m2f-batch", cronjob=NIGHT),
    ),
    case(
        "was never well",
        "32h",
        [cron("created", "0x2400")],
        alert("M2fBatchNoSuccess", f"{NIGHT}: no night was done for 1d 8h 0m 0s", namespace="m2f-batch", cronjob=NIGHT),
    ),
    case(
        "was well an hour ago",
        "32h",
        [cron("created", "0x2400"), cron("status_last_successful_time", "0x1800 111600x540")],
    ),
    case("is suspended", "32h", [cron("created", "0x2400"), cron("spec_suspend", "1x2400")]),
    case(
        "its RayJob was done tonight",
        "40h",
        [ray_job("Complete", "1x3000"), ray_job("Complete", "_x1560 1x1800", f"{NIGHT}-18")],
    ),
    case(
        "its RayJob was not done tonight",
        "40h",
        [ray_job("Complete", "1x3000"), ray_job("Running", "_x1560 1x1800", f"{NIGHT}-18")],
        alert(
            "M2fBatchNoNight", "m2f-batch: no RayJob of m2f-batch-nightly was done for 30 hours", namespace="m2f-batch"
        ),
    ),
    case("its first RayJob still runs", "10h", [ray_job("Running", "1x3000")]),
    # RayJobs
    case(
        "a RayJob fails",
        "40m",
        [ray_job("Running", "1x30 _x20", "m2f-batch-segment"), ray_job("Failed", "_x31 1x20", "m2f-batch-segment")],
        alert(
            "M2fBatchJobFailed",
            "m2f-batch-segment: the RayJob has failed, with all its tries",
            **{"namespace": "m2f-batch", "name": "m2f-batch-segment", "uid": "u-m2f-batch-segment"},
            **{"deployment_status": "Failed", "job": "kuberay"},
        ),
    ),
    case("a RayJob failed the day before", "30h", [ray_job("Failed", "1x3000", "m2f-batch-segment")]),
    case("a RayJob waits for its head", "29m", [ray_job("Initializing", "1x50", "m2f-batch-segment")]),
    case(
        "a RayJob waits for a head that does not come",
        "35m",
        [ray_job("Initializing", "1x50", "m2f-batch-segment")],
        alert(
            "M2fBatchJobWaits",
            "m2f-batch-segment: the RayJob has no cluster to run on for 30 minutes",
            **{"namespace": "m2f-batch", "name": "m2f-batch-segment", "uid": "u-m2f-batch-segment"},
            **{"deployment_status": "Initializing", "job": "kuberay"},
        ),
    ),
    # plain machines, scraped every 5 seconds
    case("a machine was well last night", "29h", [MACHINE], file="alerts-machines.yml"),
    case(
        "a machine was not well last night",
        "31h",
        [MACHINE],
        alert("M2fBatchNoSuccess", f"{NIGHTLY}: no run was verified for 30 hours", run=NIGHTLY),
        file="alerts-machines.yml",
    ),
]


def rules_of(file):
    groups = yaml.safe_load((INFRA / "prometheus" / file).read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_each_alert_fires_once_and_is_silent_where_another_thing_is_wrong():
    for file in FILES:
        fired = {name for told in CASES if told["file"] == file for name, _, _ in told["warned"]}
        assert fired == rules_of(file).keys()
        assert any(not told["warned"] for told in CASES if told["file"] == file)


@pytest.mark.parametrize("told", CASES, ids=lambda told: told["name"])
def test_who_is_warned(told, tmp_path):
    promtool, rules = program("promtool", "prometheus"), rules_of(told["file"])
    expected = {name: [] for name in rules}
    for name, summary, labels in told["warned"]:
        annotations = {"summary": summary, "action": rules[name]["annotations"]["action"]}
        severity = "critical" if re.search("NoSuccess|NoNight", name) else "warning"
        expected[name].append({"exp_labels": {"severity": severity, **labels}, "exp_annotations": annotations})
    test = {
        "interval": "1m",
        "input_series": told["series"],
        "alert_rule_test": [
            {"eval_time": told["at"], "alertname": name, "exp_alerts": alerts} for name, alerts in expected.items()
        ],
    }
    every = "5m" if re.fullmatch(r"\d\dh", told["at"]) else "1m"  # to look at a day every minute takes seconds
    document = {
        "rule_files": [str(INFRA / "prometheus" / told["file"])],
        "evaluation_interval": every,
        "tests": [test],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
