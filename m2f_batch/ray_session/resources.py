"""Plans which resources the replicas and tasks of a run get, from the config and the cluster's nodes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from m2f_batch.config.segment import ComputeConfig
from m2f_batch.errors import UsageError
from m2f_batch.ray_session.slots import SlotCounts


@dataclass(frozen=True)
class Resources:
    """The resources that a run asks of the cluster. CPUs are Ray's bookkeeping, because forward passes pin threads."""

    device: str
    actors: tuple[int, int]
    gpus_per_actor: float
    cpus_per_actor: float
    cpus_per_task: float
    starts_nodes: bool = False  # an autoscaler does, for what finds no slot
    awaits_nodes: bool = False  # the plan counts on nodes that are still to come

    @property
    def asked_at_once(self) -> int:
        """The replicas to ask for at the start: all, where that makes an autoscaler start a node for each.

        Elsewhere they would take room from tasks: in Ray Data's reckoning where they find no GPU, in fact on CPUs.
        """
        return self.actors[1] if self.device == "cuda" and self.starts_nodes else self.actors[0]

    @property
    def may_wait(self) -> bool:
        """True if the first replica may wait for a node, or load for long, while tasks run already."""
        return self.device == "cuda" or self.awaits_nodes

    def held(self, nodes: Sequence[Mapping[str, float]], at_work: int = 0) -> SlotCounts:
        """Count the slots on these nodes, where ``at_work`` replicas are known to work.

        Replicas take every GPU that there is, up to the most, from before they have labeled anything. On CPUs the pool
        has its fewest, or more once they are at work. Tasks that fetch and decode get the rest.
        """
        cpus = sum(node.get("CPU", 0.0) for node in nodes)
        kind, share = ("GPU", self.gpus_per_actor) if self.device == "cuda" else ("CPU", self.cpus_per_actor)
        most = min(self.actors[1], sum(int(node.get(kind, 0.0) / share) for node in nodes))
        there = most if self.device == "cuda" else min(most, max(self.actors[0], at_work))
        return SlotCounts(max(1.0, (cpus - there * self.cpus_per_actor) // self.cpus_per_task), max(1, most))

    def fits(self, nodes: Sequence[Mapping[str, float]]) -> bool:
        """Tell whether one replica, and beside it a task that feeds it, fit on these nodes."""
        cpus = sum(node.get("CPU", 0.0) for node in nodes)
        return cpus >= self.cpus_per_actor + self.cpus_per_task and any(
            node.get("CPU", 0.0) >= self.cpus_per_actor and node.get("GPU", 0.0) >= self.gpus_per_actor
            for node in nodes
        )

    def may_starve(self, nodes: Sequence[Mapping[str, float]]) -> bool:
        """Tell whether replicas could take every CPU of these nodes, and leave none to the tasks that feed them."""
        cpus, fitting = 0.0, 0
        for node in nodes:
            cpus += node.get("CPU", 0.0)
            by_cpu = int(node.get("CPU", 0.0) / self.cpus_per_actor)
            by_gpu = int(node.get("GPU", 0.0) / self.gpus_per_actor) if self.gpus_per_actor else by_cpu
            fitting += min(by_cpu, by_gpu)
        taken = min(self.asked_at_once, fitting) * self.cpus_per_actor
        return fitting > 0 and cpus - taken < self.cpus_per_task


def plan_resources(
    compute: ComputeConfig, nodes: Sequence[Mapping[str, float]], *, may_grow: bool, starts_nodes: bool = False
) -> Resources:
    """Plan who gets what, from the config and the resources of the cluster's nodes (never the driver's machine).

    Shares of CPUs are for a cluster that has too few and gets no more. Where nodes are still to come, or an autoscaler
    ``starts_nodes``, the present nodes say nothing.
    """
    cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    on_gpu = compute.device == "cuda" or (compute.device == "auto" and gpus > 0)
    share = (compute.gpus_per_actor or 1.0) if on_gpu else 0.0
    if on_gpu and not may_grow and share > max(node.get("GPU", 0.0) for node in nodes):
        what = f"{share:g} GPUs on one node" if gpus else "a GPU"
        raise UsageError(f"cuda needs {what}, and this Ray has none; allowed here: auto, cpu", field="compute.device")
    if not on_gpu and compute.gpus_per_actor is not None:
        raise UsageError(
            "does not apply to compute.device cpu", field="compute.gpus_per_actor", value=compute.gpus_per_actor
        )
    low, high = _bounds(compute, int(gpus // share) if on_gpu else int(max(cpus - 1, 0) // compute.threads_per_actor))
    device, per_actor = ("cuda", 1.0) if on_gpu else ("cpu", float(compute.threads_per_actor))
    if starts_nodes or (may_grow and not cpus):
        # As many CPU replicas as are wanted could take every CPU that ever comes, and would wait for ever for images
        # that nobody may fetch. Ray Data starts more than the fewest only where tasks have their slots too.
        low = low if on_gpu or low * per_actor + 1.0 <= cpus else 1
        return Resources(device, (low, high), share, per_actor, 1.0, starts_nodes, awaits_nodes=True)
    # an actor must fit on one node, whatever its threads
    largest = max((node.get("CPU", 0.0) for node in nodes), default=0.0) or 1.0
    per_actor, per_task = min(per_actor, largest), min(1.0, largest)
    if low * per_actor + per_task > cpus:
        # actors that take every CPU would wait for ever for images that nobody may fetch
        per_actor, per_task = math.floor(50 * max(cpus, 1.0) / low) / 100, 0.5
    return Resources(device, (low, high), share, per_actor, per_task)


def _bounds(compute: ComputeConfig, fitting: int) -> tuple[int, int]:
    if compute.actors is None:
        return max(1, fitting), max(1, fitting)
    return compute.actors if isinstance(compute.actors, tuple) else (compute.actors, compute.actors)
