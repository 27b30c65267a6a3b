"""Who gets which resources, and what Ray's errors mean; without a Ray session."""

import os
import socket

import pytest
from ray.exceptions import ActorDiedError, OwnerDiedError, RayTaskError

from m2f_batch.config import ComputeConfig
from m2f_batch.errors import RunError, TransientError, UsageError
from m2f_batch.flow.cluster import FOR_START, connected, plan_resources, run_error
from m2f_batch.processes import PASSIVE


@pytest.mark.parametrize(
    ("nodes", "compute", "actors", "cpus_per_actor"),
    [
        ([{"CPU": 1}], {}, (1, 1), 0.5),
        ([{"CPU": 1}], {"actors": 3}, (3, 3), 0.16),
        ([{"CPU": 2}], {}, (1, 1), 1.0),
        ([{"CPU": 3}], {}, (1, 1), 2.0),
        ([{"CPU": 8}], {}, (3, 3), 2.0),
        ([{"CPU": 8}], {"threads_per_actor": 1}, (7, 7), 1.0),
        ([{"CPU": 8}], {"actors": (1, 3)}, (1, 3), 2.0),
        ([{"CPU": 2}], {"actors": 4}, (4, 4), 0.25),
        ([{"CPU": 1}] * 4, {}, (1, 1), 1.0),
        ([{}, {"CPU": 4}], {}, (1, 1), 2.0),
        ([{"CPU": 32, "GPU": 4}], {}, (4, 4), 1.0),
        ([{"CPU": 32, "GPU": 4}], {"gpus_per_actor": 0.5}, (8, 8), 1.0),
        ([{"CPU": 32, "GPU": 4}], {"device": "cpu"}, (15, 15), 2.0),
    ],
)
def test_resources_leave_room_for_the_tasks_that_feed_the_actors(nodes, compute, actors, cpus_per_actor):
    resources = plan_resources(ComputeConfig(**compute), nodes, may_grow=False)
    assert resources.actors == actors
    assert resources.cpus_per_actor == cpus_per_actor
    cpus = [node.get("CPU", 0) for node in nodes]
    assert resources.actors[0] * resources.cpus_per_actor + resources.cpus_per_task <= sum(cpus)
    assert max(resources.cpus_per_actor, resources.cpus_per_task) <= max(cpus), "each must fit on one node"
    assert (resources.device == "cuda") == ("GPU" in nodes[0] and compute.get("device") != "cpu")


def test_gpus_that_cannot_be_had_are_a_mistake_unless_the_cluster_may_grow():
    with pytest.raises(UsageError, match=r"compute\.device"):
        plan_resources(ComputeConfig(device="cuda"), [{"CPU": 4}], may_grow=False)
    with pytest.raises(UsageError, match="2 GPUs on one node"):
        plan_resources(ComputeConfig(gpus_per_actor=2), [{"CPU": 4, "GPU": 1}] * 2, may_grow=False)
    assert plan_resources(ComputeConfig(device="cuda", actors=(1, 8)), [{"CPU": 4}], may_grow=True).actors == (1, 8)


def test_gpu_shares_do_not_apply_to_cpus():
    with pytest.raises(UsageError, match=r"compute\.gpus_per_actor"):
        plan_resources(ComputeConfig(device="cpu", gpus_per_actor=0.5), [{"CPU": 4}], may_grow=False)


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("prepare_unit", "Traceback ...", cause)


def test_our_own_error_comes_out_of_rays():
    ours = RunError("the bucket is gone")
    assert run_error(task_error(ours)) is ours
    assert run_error(task_error(ours).as_instanceof_cause()) is ours


def test_what_is_transient_arrives_as_itself():
    ours = TransientError("the bucket asks to slow down")
    assert run_error(task_error(ours)) is ours


def test_a_lost_worker_is_a_failed_run_and_a_bug_stays_a_bug():
    assert isinstance(run_error(ActorDiedError()), RunError)
    assert isinstance(run_error(task_error(OwnerDiedError("00", None, ""))), RunError)
    bug = task_error(KeyError("no such key"))
    assert run_error(bug) is bug


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_is_not_there_is_one_message_at_once(scheme):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        pytest.raises(UsageError, match=rf"compute\.address: nobody answers at {scheme}127\.0\.0\.1:{port}"),
        connected(ComputeConfig(address=f"{scheme}127.0.0.1:{port}")),
    ):
        pass


def test_a_local_ray_gets_time_to_start_on_a_busy_machine(monkeypatch):
    seen = {}

    def init(**options):
        seen.update({name: os.environ.get(name) for name in FOR_START | PASSIVE}, address=options["address"])

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in FOR_START | PASSIVE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with connected(ComputeConfig()):
        assert not (FOR_START | PASSIVE).keys() & os.environ.keys()
    assert seen == {"address": "local", "RAY_raylet_start_wait_time_s": "180", "OMP_WAIT_POLICY": "PASSIVE"}
