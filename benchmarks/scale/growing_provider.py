"""Starts a raylet on this machine where Ray's autoscaler asks for a node. Loaded by the autoscaler itself."""

import os
from pathlib import Path
from typing import Any

from ray._private.node import Node
from ray._private.parameter import RayParams
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

from benchmarks.lib.ray_folder import free_port
from benchmarks.scale.growing_cluster import AGENTS, tell_ports


class Provider(FakeMultiNodeProvider):  # type: ignore[misc]  # Ray says nothing of its types
    """Ray's fake provider, but that a node's agents are told their ports, and the raylet too."""

    def _create_node_with_resources_and_labels(
        self, node_config: Any, tags: dict[str, str], count: int, resources: dict[str, float], labels: Any
    ) -> None:
        with self.lock:
            name, left = self._next_hex_node_id(), dict(resources)
            names = {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": name, "RAY_CLOUD_INSTANCE_ID": name}
            ports = {agent: free_port() for agent in AGENTS.values()}
            tell_ports(Path(os.environ["RAY_TMPDIR"]), name, ports)
            params = RayParams(
                min_worker_port=0,
                max_worker_port=0,
                num_cpus=left.pop("CPU", 0),
                num_gpus=left.pop("GPU", 0),
                resources=left,
                labels=labels,
                object_store_memory=120 << 20,
                redis_address=self._gcs_address,
                gcs_address=self._gcs_address,
                include_log_monitor=False,
                env_vars=names | {"RAY_NODE_TYPE_NAME": tags[TAG_RAY_USER_NODE_TYPE]},
                **ports,
            )
            node = Node(params, head=False, shutdown_at_exit=False, spawn_reaper=False)
            self._nodes[name] = {"tags": {**tags}, "node": node}
