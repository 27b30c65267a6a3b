"""Who gets which resources of a cluster, without a Ray session."""

import pytest

from m2f_batch.config.segment import ComputeConfig
from m2f_batch.errors import UsageError
from m2f_batch.ray_session.resources import plan_resources


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


GPU_NODE = {"CPU": 8, "GPU": 1}


@pytest.mark.parametrize(
    ("nodes", "compute", "actors", "asked", "cpus"),
    [
        # asleep, or with a node or two of many: what is there now says nothing
        ([{}], {"device": "cuda", "actors": (1, 8)}, (1, 8), 8, (1.0, 1.0)),
        ([{}, {"CPU": 2, "GPU": 1}], {"actors": 8}, (8, 8), 8, (1.0, 1.0)),
        ([{}], {"device": "cpu"}, (1, 1), 1, (2.0, 1.0)),
        ([{"CPU": 1}], {"device": "cpu", "threads_per_actor": 4}, (1, 1), 1, (4.0, 1.0)),
        # CPU replicas start with one, and with the fewest where tasks have a place beside them
        ([{}], {"device": "cpu", "actors": 8}, (1, 8), 1, (2.0, 1.0)),
        ([{"CPU": 4}], {"device": "cpu", "actors": (2, 8)}, (1, 8), 1, (2.0, 1.0)),
        ([{"CPU": 5}], {"device": "cpu", "actors": (2, 8)}, (2, 8), 2, (2.0, 1.0)),
    ],
)
def test_where_an_autoscaler_starts_nodes_nobody_gets_half_a_cpu(nodes, compute, actors, asked, cpus):
    resources = plan_resources(ComputeConfig(**compute), nodes, may_grow=True, starts_nodes=True)
    assert (resources.actors, resources.asked_at_once) == (actors, asked)
    assert (resources.cpus_per_actor, resources.cpus_per_task) == cpus


def test_a_cluster_that_gets_no_nodes_by_itself_shares_the_cpus_that_it_has():
    few = plan_resources(ComputeConfig(device="cpu"), [{"CPU": 1}], may_grow=True)
    assert (few.cpus_per_actor, few.cpus_per_task) == (0.5, 0.5)
    # workers that join by hand later: no CPU is there that could be shared
    none = plan_resources(ComputeConfig(device="cpu"), [{}], may_grow=True)
    assert (none.cpus_per_actor, none.cpus_per_task, none.asked_at_once) == (2.0, 1.0, 1)
    waiting = plan_resources(ComputeConfig(device="cuda", actors=(1, 8)), [{"CPU": 4}], may_grow=True)
    assert waiting.asked_at_once == 1, "replicas that nobody starts a node for would only take room from tasks"


def test_nodes_hold_replicas_and_the_tasks_that_feed_them():
    pool = plan_resources(ComputeConfig(device="cuda", actors=(1, 8)), [{}], may_grow=True, starts_nodes=True)
    assert pool.held([{}]) == (1, 1)
    assert pool.held([{}, GPU_NODE]) == (7, 1)
    assert pool.held([{}, *[GPU_NODE] * 3, {"CPU": 16}]) == (3 * 7 + 16, 3)
    assert pool.held([GPU_NODE] * 10) == (80 - 8, 8), "no more replicas than were asked for"
    halves = plan_resources(ComputeConfig(actors=4, gpus_per_actor=0.5), [GPU_NODE], may_grow=True)
    assert halves.held([GPU_NODE]) == (6, 2)
    on_cpu = plan_resources(ComputeConfig(actors=(1, 3)), [{"CPU": 8}], may_grow=False)
    assert [on_cpu.held([{"CPU": 8}], at_work) for at_work in (0, 1, 2, 9)] == [(6, 3), (6, 3), (4, 3), (2, 3)]
    assert on_cpu.held([{"CPU": 2}] * 2, 3) == (1, 2)


@pytest.mark.parametrize(
    ("nodes", "fits"),
    [
        ([{}], False),
        ([GPU_NODE], True),
        ([{"CPU": 8}], False),
        ([{"CPU": 1, "GPU": 1}], False),
        ([{"CPU": 1, "GPU": 1}, {"CPU": 1}], True),
        ([{"CPU": 8}, {"GPU": 1}], False),
    ],
)
def test_whether_a_run_can_begin_on_what_is_there(nodes, fits):
    pool = plan_resources(ComputeConfig(device="cuda"), [{}], may_grow=True, starts_nodes=True)
    assert pool.fits(nodes) is fits


def test_gpu_shares_do_not_apply_to_cpus():
    with pytest.raises(UsageError, match=r"compute\.gpus_per_actor"):
        plan_resources(ComputeConfig(device="cpu", gpus_per_actor=0.5), [{"CPU": 4}], may_grow=False)


@pytest.mark.parametrize(
    ("actors", "nodes", "may_starve"),
    [
        ((1, 2), [{"GPU": 1, "CPU": 1}], True),
        ((1, 2), [{"GPU": 1, "CPU": 1}] * 2, True),
        ((1, 2), [{"GPU": 1, "CPU": 1}] * 3, False),
        ((1, 2), [{"GPU": 1, "CPU": 1}] * 2 + [{"CPU": 1}], False),
        ((1, 8), [{"GPU": 4, "CPU": 4}], True),
        ((1, 8), [{"GPU": 4, "CPU": 5}], False),
        ((1, 8), [{"GPU": 4, "CPU": 2}], True),
        ((1, 8), [{}, {"CPU": 2}], False),
    ],
)
def test_gpu_nodes_with_no_more_cpus_than_replicas_may_starve_them(actors, nodes, may_starve):
    pool = plan_resources(ComputeConfig(device="cuda", actors=actors), [{}], may_grow=True, starts_nodes=True)
    assert pool.may_starve(nodes) is may_starve
