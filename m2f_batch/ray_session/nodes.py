"""Asks Ray which nodes a cluster has, and whether it may get more."""

import json
import os
import re
from contextlib import suppress

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_get

from m2f_batch.config.segment import ComputeConfig
from m2f_batch.ray_session.resources import Resources
from m2f_batch.ray_session.slots import SlotCounts

# where Ray's is_autoscaler_v2 looks (ray/autoscaler/v2/utils.py): key and namespace
AUTOSCALER_V2 = (b"__autoscaler_v2_enabled", b"__autoscaler")


def present() -> list[dict[str, float]]:
    """Return the resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def held_now(resources: Resources, at_work: int) -> SlotCounts | None:
    """Count the slots on the nodes that are alive. None: the head does not answer, which is said elsewhere."""
    with suppress(RayError, RuntimeError, ConnectionError):
        return resources.held(present(), at_work)
    return None


def may_grow(compute: ComputeConfig) -> bool:
    """Tell whether the cluster may get nodes that it does not have yet, as any may but a local Ray."""
    return compute.address is not None or "RAY_ADDRESS" in os.environ


def starts_nodes() -> bool:
    """Tell whether an autoscaler is there, which starts nodes for what finds no slot on those that there are.

    Ray says nowhere what kinds of nodes it could start, nor how many. On Kubernetes and by Ray's launcher it is the
    autoscaler's second version, whose mark stands in the GCS. Of the first, which every head runs, only a cluster that
    Ray started itself has kinds of nodes with names.
    """
    if _internal_kv_get(AUTOSCALER_V2[0], namespace=AUTOSCALER_V2[1]) == b"1":
        return True
    status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}")
    kinds = (status.get("autoscaler_report") or {}).get("active_nodes") or {}
    return any(not re.fullmatch("node_[0-9a-f]+", kind) for kind in kinds)
