"""Four Ray nodes with addresses of their own and a token, images and rows on S3: what is submitted ends as it should.

Skipped where this machine has no network namespaces. CHAOS=all runs them: four Ray nodes take minutes to come to life,
and what only separate machines show changes seldom. That a node dies and each image has its row is shown at each run of
the tests by tests/chaos/test_chaos.py, and tokens and refusals by tests/chaos/test_submit_cluster.py.
"""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from alone import rows_alone
from conftest import DEMO_MODEL, LONG
from drivers import environment_of
from judge import judge
from storages import Bucket, free_port, images, s3_server
from support.ceph import CEPH_SCRIPT
from support.client_venv import Client
from support.fault_proxy import FaultProxy
from support.finetunes import config_file, losses, wait_until
from support.nodes import WORKERS, Nodes, NoNamespaces
from unit_hook import Hook

from m2f_batch.demo.dataset import write_dataset

IMAGES = 28  # one of them is broken
SECONDS_PER_IMAGE = 0.7
LONGEST_SECONDS = 400
pytestmark = LONG


@dataclass
class Cluster:
    """The nodes, a bucket that they reach, and what slows their units."""

    nodes: Nodes
    bucket: Bucket
    hook: Hook
    variables: dict[str, str]

    def submit(self, log: Path, *arguments: str, **variables: str) -> "subprocess.Popen[bytes]":
        """``m2f-batch submit`` on this machine, which has the token but no keys."""
        environment = environment_of({**self.variables, **variables})
        with log.open("wb") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "m2f_batch.cli", "submit", *arguments, "--address", self.nodes.jobs_address],
                env={name: value for name, value in environment.items() if value},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def segment(self, output: str) -> list[str]:
        """Arguments of a segment job in small units."""
        settings = {"compute.actors": "2", "compute.threads_per_actor": "1", "run.images_per_unit": "4"}
        pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        return ["segment", self.bucket.source, output, "--model", str(DEMO_MODEL), "--task", "panoptic", *pairs]

    def nodes_with(self, title: str) -> set[str]:
        """The names of the nodes on which such a process runs."""
        return {name for name in WORKERS if any(title in one for one in self.nodes.titles(name))}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("nodes")) as found:
        yield found


@contextmanager
def started(folder: Path) -> Iterator[Cluster]:
    """A cluster and its bucket; skips where there can be none."""
    with ExitStack() as stack:
        server = stack.enter_context(s3_server("ceph" if CEPH_SCRIPT.exists() else "moto", folder / "s3"))
        nodes, hook, port = Nodes(), Hook(folder / "hook"), free_port()
        place = {"AWS_ENDPOINT_URL": f"http://{nodes.host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
        nodes.variables |= server | hook.variables | place
        try:
            stack.enter_context(nodes)
        except NoNamespaces as error:
            pytest.skip(f"no network namespaces here: {error}")
        stack.enter_context(FaultProxy(server["AWS_ENDPOINT_URL"], port, host=nodes.host))
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(nodes.token_file), "HOME": str(folder)}
        yield Cluster(nodes, Bucket(server, images(IMAGES)), hook, place | token)


def test_a_node_dies_and_each_image_has_its_row(cluster: Cluster, tmp_path: Path):
    output, log = cluster.bucket.at("labels"), tmp_path / "log"
    cluster.hook.begin(SECONDS_PER_IMAGE)
    process = cluster.submit(log, *cluster.segment(output))
    try:
        wait_until(lambda: len(cluster.hook.lines()) > 1, process, said=log.read_text)
        victim = sorted(cluster.nodes_with("ray::MapWorker"))[-1]
        cluster.nodes.kill(victim)
        before = len(cluster.hook.lines())
        assert before < IMAGES // 4
        assert process.wait(LONGEST_SECONDS) == 0, log.read_text()
    finally:
        process.kill()
    assert len(cluster.hook.lines()) > before
    assert judge(cluster.bucket, output, rows_alone(cluster.bucket, str(DEMO_MODEL))).problems == ()
    secret = cluster.bucket.variables["AWS_SECRET_ACCESS_KEY"]
    jobs = answer(f"{cluster.nodes.jobs_address}/api/jobs/", cluster.nodes.token_file.read_text())
    assert "m2f-batch-segment" in jobs
    assert secret not in jobs + log.read_text() + cluster.bucket.read(f"{output}/run.json").decode()


def test_a_node_that_is_told_to_end_loses_no_unit(tmp_path: Path):
    """By SIGTERM and nothing else, as infra/kubernetes has it: Ray drains the node, and its replica ends what it is at.

    A stop of Ray on that node instead (a preStop) lost 4 of 80 units, and let 14 more begin there.
    """
    with started(tmp_path) as cluster:
        output, log = cluster.bucket.at("labels"), tmp_path / "log"
        cluster.hook.begin(SECONDS_PER_IMAGE)
        process = cluster.submit(log, *cluster.segment(output))
        try:
            wait_until(lambda: len(cluster.hook.lines()) > 1, process, said=log.read_text)
            leaving = sorted(cluster.nodes_with("ray::MapWorker"))[-1]
            ray_start = cluster.nodes.end(leaving)
            assert process.wait(LONGEST_SECONDS) == 0, log.read_text()
        finally:
            process.kill()
        units = IMAGES // 4
        begun, labelled = (cluster.hook.lines(name) for name in ("begun", "labelled"))
        print(f"{units} units, {len(begun)} begun, {len(labelled)} labelled, by {len({pid for _, pid in labelled})}")
        assert sorted(labelled) == sorted(begun) and len(labelled) == len({unit for unit, _ in labelled}) == units
        assert ray_start.wait(60) == 1  # as Ray ends on SIGTERM
        assert judge(cluster.bucket, output, rows_alone(cluster.bucket, str(DEMO_MODEL))).problems == ()


@pytest.mark.parametrize(
    ("token", "said"),
    [("", "asks for a token, and there is none"), ("0" * 64, "refuses the token (403")],
    ids=["missing", "wrong"],
)
def test_nobody_without_the_token(cluster: Cluster, tmp_path: Path, token: str, said: str):
    log = tmp_path / "log"
    with pytest.raises(urllib.error.HTTPError, match=r"401|403"):
        answer(f"{cluster.nodes.jobs_address}/api/jobs/", token)
    # no mode, and no refusal of ours for another machine without a token: the cluster itself is asked
    ours = {"RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": token}
    job = cluster.segment(cluster.bucket.at("refused"))
    process = cluster.submit(log, *job, "--set", "compute.allow_no_token=true", **ours)
    assert process.wait(60) == 2, log.read_text()
    assert said in log.read_text() and "Traceback" not in log.read_text()
    assert cluster.bucket.files(cluster.bucket.at("refused")) == {}


def test_a_client_without_ray_submits(cluster: Cluster, client: Client, tmp_path: Path):
    """m2f-batch-client, in an environment of its own, to the four nodes, with the token in a file."""
    output, told = cluster.bucket.at("from-client"), tmp_path / "termination-log"
    cluster.hook.begin(0)
    settings = (*cluster.segment(output), "--submission-id", "client", "--result", str(told))
    ours = {**cluster.variables, "RAY_API_SERVER_ADDRESS": cluster.nodes.jobs_address}
    done = client.run("submit", *settings, seconds=LONGEST_SECONDS, **ours)
    assert done.returncode == 0, done
    result = json.loads(told.read_text())
    run = json.loads(cluster.bucket.read(f"{output}/run.json"))
    totals = result["totals"]["images"]
    assert totals == run["images"] and (totals["listed"], totals["remaining"]) == (IMAGES, 0)
    assert (result["exit_code"], result["output"], result["run_id"]) == (0, output, run["run_id"])
    assert (result["submission_id"], result["retry"]) == ("client", False)
    assert judge(cluster.bucket, output, rows_alone(cluster.bucket, str(DEMO_MODEL))).problems == ()
    again = client.run("submit", "follow", "client", **ours)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    without = client.run("submit", *settings, **{**ours, "RAY_AUTH_TOKEN_PATH": ""})
    assert without.returncode == 2 and "there is no token" in without.stderr
    assert json.loads(told.read_text())["exit_code"] == 2


def test_two_workers_on_two_nodes(cluster: Cluster, tmp_path: Path):
    write_dataset(tmp_path / "dataset", train=10, val=4)
    output, log = tmp_path / "tuned", tmp_path / "log"
    config = config_file(tmp_path / "dataset", tmp_path, workers=2)
    process = cluster.submit(log, "finetune", "--config", str(config), "--set", f"output.uri={output}")
    seen: set[str] = set()
    try:
        end = time.monotonic() + LONGEST_SECONDS
        while process.poll() is None and time.monotonic() < end:
            seen |= cluster.nodes_with("ray::RayTrainWorker")
            time.sleep(0.5)
        assert process.poll() == 0, log.read_text()
    finally:
        process.kill()
    assert len(seen) == 2
    assert [step for step, _ in losses(output)] == [*range(1, 11)]
    assert json.loads((output / "config.json").read_text())["task"] == "panoptic"


def answer(url: str, token: str) -> str:
    """What the Jobs API says to this token. Raises HTTPError."""
    header = {"Authorization": f"Bearer {token}"} if token else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=header), timeout=30) as said:
        return str(said.read().decode())
