"""Tasks beside the pipeline: all are done, and none waits for a CPU, which would make an autoscaler start a node."""

import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from conftest import DEMO_MODEL
from PIL import Image
from ray._private.state import actors
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from support.engines import config_of, in_process, rows_of

from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import RunError
from m2f_batch.flow import engine, job
from m2f_batch.ray_session import tasks
from m2f_batch.ray_session.tasks import on_cluster
from m2f_batch.storage.allow import OF_MACHINE


def test_no_task_waits_for_a_cpu_that_another_job_has(ray_session):
    @ray.remote(num_cpus=1)
    class Neighbour:
        def is_there(self) -> bool:
            return True

    def slowly(number: int) -> tuple[int, float, float]:
        began = time.time()
        time.sleep(0.3)
        return number, began, time.time()

    neighbour = Neighbour.remote()
    assert ray.get(neighbour.is_there.remote())
    while ray.available_resources().get("CPU", 0) > 3:
        time.sleep(0.1)
    gcs = ray._raylet.GcsClient(ray.get_runtime_context().gcs_address)
    waited, over = [], threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            waited.extend(get_cluster_resource_state(gcs).pending_resource_requests)

    watch = threading.Thread(target=look)
    watch.start()
    done = [*on_cluster(slowly, range(12))]
    over.set()
    watch.join()
    assert sorted(number for number, *_ in done) == [*range(12)]
    at_once = [sum(began <= at < ended for _, began, ended in done) for _, at, _ in done]
    assert 2 <= max(at_once) <= 3
    assert not waited, waited[:1]
    ray.kill(neighbour)


def test_the_list_of_a_worker_s_machine_holds_where_its_driver_has_none(ray_session):
    """As on Kubernetes, where the pods of a cluster have a list and what submits a job has not."""

    @ray.remote(num_cpus=0.01, runtime_env={"env_vars": {OF_MACHINE: "s3://b"}})
    def looked(uris: list[str]) -> list[object]:
        from m2f_batch.inputs.fetch import fetch_many
        from m2f_batch.records import ImageRef
        from m2f_batch.storage.allow import is_allowed

        outside = [ImageRef(uri, None) for uri in uris if not is_allowed(uri)]
        return [str(data) for _, data in fetch_many(outside, threads=1)]

    assert OF_MACHINE not in os.environ
    outside = ["/etc/hostname", "s3://bb/a.png"]
    said = ray.get(looked.remote(["s3://b/a.png", *outside]))
    assert said == [f"fetch: NotAllowed: {uri}: lies outside the allow-list" for uri in outside]


def test_half_of_the_free_cpus_are_left_where_an_autoscaler_listens(ray_session, monkeypatch):
    monkeypatch.setattr(tasks, "starts_nodes", lambda: True)

    def slowly(_: int) -> tuple[float, float]:
        began = time.time()
        time.sleep(0.5)
        return began, time.time()

    while ray.available_resources().get("CPU", 0) < 4:
        time.sleep(0.1)
    done = [*on_cluster(slowly, range(8))]
    at_once = max(sum(began <= at < ended for began, ended in done) for at, _ in done)
    assert len(done) == 8 and at_once <= 2


def test_tasks_are_canceled_after_an_error(ray_session, tmp_path):
    def act(number: int) -> None:
        if number == 0:
            time.sleep(1)
            raise RunError("the bucket is gone")
        (tmp_path / f"began-{number}").touch()
        for _ in range(6000):  # far longer than is waited below
            time.sleep(0.1)
        (tmp_path / f"ended-{number}").touch()

    with pytest.raises(RunError, match="the bucket is gone"):
        [*on_cluster(act, range(12))]
    until = time.time() + 120
    while ray.available_resources().get("CPU", 0) < 4:
        assert time.time() < until, "a task goes on"
        time.sleep(0.1)
    assert [*tmp_path.glob("began-*")] and not [*tmp_path.glob("ended-*")]


def test_a_night_without_a_unit_to_label_asks_for_no_gpu_and_no_node(ray_session, tmp_path, monkeypatch):
    """Rows of images that are gone are dropped in tasks, while a replica would wait for a GPU that no node has."""
    (tmp_path / "in").mkdir()
    for number in range(24):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / "in" / f"{number:02d}.png")

    def config_for(device: str) -> SegmentConfig:
        sections = {"input": {"max_removed_fraction": 1.0}, "output": {"images_per_file": 2}}
        return config_of(tmp_path / "in", tmp_path / "run", DEMO_MODEL, compute={"device": device}, **sections)

    assert in_process(config_for("cpu")) == 0
    for number in range(0, 24, 2):
        (tmp_path / "in" / f"{number:02d}.png").unlink()
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # a cluster that may get nodes
    monkeypatch.setattr(job, "starts_nodes", lambda: True)
    monkeypatch.setattr(tasks, "starts_nodes", lambda: True)
    gcs = ray._raylet.GcsClient(ray.get_runtime_context().gcs_address)
    waited, over = [], threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            waited.extend(get_cluster_resource_state(gcs).pending_resource_requests)

    watch = threading.Thread(target=look)
    watch.start()
    began = {*actors()}
    code = job.segment(config_for("cuda")).exit_code
    over.set()
    watch.join()
    assert code == 0
    assert not waited, waited[:1]
    assert {*actors()} == began
    assert [int(Path(row["uri"]).stem) for row in rows_of(tmp_path / "run")] == [*range(1, 24, 2)]


def test_what_dies_while_it_loads_a_model_is_tried_once_and_the_run_goes_on(ray_session, tmp_path):
    """Ray's own tries have no end where memory is what is missing."""

    def dies(settings):
        with (tmp_path / "tries").open("a") as tries:
            tries.write("1")
        os.kill(os.getpid(), signal.SIGKILL)

    steps = SimpleNamespace(load=None, check=dies)
    flow = SimpleNamespace(resources=SimpleNamespace(cpus_per_task=1.0), actor=None, steps=steps)
    assert [*engine.once_rewritten(flow, None, iter(["a", "b"]))] == ["a", "b"]  # nothing was rewritten, nor said
    assert (tmp_path / "tries").read_text() == "1"


def test_there_may_be_nothing_to_do(ray_session):
    assert [*on_cluster(str, [])] == []
