"""Tasks beside the pipeline: all are done, and none waits for a CPU, which would make an autoscaler start a node."""

import os
import signal
import threading
import time
from types import SimpleNamespace

import ray
from ray.autoscaler.v2.sdk import get_cluster_resource_state

from m2f_batch.flow import engine
from m2f_batch.ray_session.session import on_cluster


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
