"""The alerts, by Prometheus' own tool, over made series: who is warned, and who is not."""

import subprocess

import pytest
import yaml
from debian import program
from infra_files import INFRA

NIGHTLY = "s3://my-bucket/labels"
STALLED = {
    "summary": "a: 9800 images remain, and none was done for 30 minutes",
    "action": "m2f-batch status OUTPUT; are there pods that wait for a node?",
}
GONE = {"summary": "a: its process has gone, and 9800 images remain", "action": "the same command goes on"}
FAILED = {"summary": "a: 9.091% of the images of the last hour failed", "action": "m2f-batch status OUTPUT says why"}
LATE = {
    "summary": f"{NIGHTLY}: no run was verified for 30 hours",
    "action": "look at the last night's job and its exit code",
}
SUCCESS = f'ray_m2f_batch_last_success_timestamp_seconds{{run="{NIGHTLY}",WorkerId="1"}}'


def remaining(worker, values):
    return f'ray_m2f_batch_images_remaining{{run="a",WorkerId="{worker}"}}', values


def images(status, values):
    return f'ray_m2f_batch_images_total{{run="a",status="{status}",WorkerId="1"}}', values


def case(name, at, series, **warned):
    alerts = {"M2fBatchStalled": STALLED, "M2fBatchGone": GONE, "M2fBatchErrors": FAILED, "M2fBatchNoSuccess": LATE}
    expected = [{"eval_time": at, "alertname": alert} for alert in alerts if alert not in warned]
    for alert, run in warned.items():
        labels = {"severity": "critical" if alert == "M2fBatchNoSuccess" else "warning", "run": run}
        told = [{"exp_labels": labels, "exp_annotations": alerts[alert]}]
        expected.append({"eval_time": at, "alertname": alert, "exp_alerts": told})
    given = [{"series": each, "values": values} for each, values in [(SUCCESS, "0 _x3000"), *series]]
    return {"name": name, "interval": "1m", "input_series": given, "alert_rule_test": expected}


CASES = [
    case("goes on", "2h", [remaining(1, "10000-10x200"), images("ok", "0+10x200"), images("error", "0+0.4x200")]),
    case("stalls", "60m", [remaining(1, "10000-10x20 9800x200")], M2fBatchStalled="a"),
    case("waits for its first node", "29m", [remaining(1, "9800x200")]),
    case("waits for a node that does not come", "40m", [remaining(1, "9800x200")], M2fBatchStalled="a"),
    case("was killed", "40m", [remaining(1, "9800x10 _x100")], M2fBatchGone="a"),
    case(
        "was killed, and another attempt ended", "60m", [remaining(1, "9800x10 _x100"), remaining(2, "_x12 500 0 _x90")]
    ),
    case("has many errors", "2h", [images("ok", "0+10x200"), images("error", "0+1x200")], M2fBatchErrors="a"),
    case("has many strangers", "2h", [images("ok", "0+10x200"), images("stranger", "0+5x200")]),
    case(
        "has errors among many strangers",
        "2h",
        [images("ok", "0+10x200"), images("error", "0+1x200"), images("stranger", "0+50x200")],
        M2fBatchErrors="a",
    ),
    case("was well last night", "29h", []),
    case("was not well last night", "31h", [], M2fBatchNoSuccess=NIGHTLY),
]


@pytest.mark.parametrize("told", CASES, ids=lambda told: told["name"])
def test_who_is_warned(told, tmp_path):
    promtool = program("promtool", "prometheus")
    test = {"rule_files": [str(INFRA / "prometheus" / "alerts.yml")], "evaluation_interval": "1m", "tests": [told]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
