"""Tasks beside the pipeline: all are done, and none waits for a CPU, which would make an autoscaler start a node."""

import threading
import time

import ray
from ray.autoscaler.v2.sdk import get_cluster_resource_state

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


def test_there_may_be_nothing_to_do(ray_session):
    assert [*on_cluster(str, [])] == []
