"""Chooses the network interface of the workers of a training: that of the address by which Ray knows their node.

Gloo takes the address to which the host's own name resolves. Debian installs machines with 127.0.1.1, and workers on
two such nodes do not find each other.
"""

import fcntl
import os
import socket
import struct
from typing import Any

import ray
from ray.train.torch import TorchConfig

SIOCGIFADDR = 0x8915  # asks for the IPv4 address of an interface (Linux, netdevice(7))
VARIABLE = "GLOO_SOCKET_IFNAME"


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]  # Ray has no types
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


class NodesNetwork(TorchConfig):  # type: ignore[misc]  # the same
    """Ray's torch backend, whose workers have chosen their interface before they meet."""

    backend_cls = _Backend


def choose_interface() -> None:
    """Name the interface to Gloo, unless somebody has, or none has the node's address."""
    name = interface_of(ray.util.get_node_ip_address())
    if name is not None:
        os.environ.setdefault(VARIABLE, name)


def interface_of(address: str) -> str | None:
    """Return the interface that has an IPv4 address.

    >>> interface_of("127.0.0.1")
    'lo'
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asked, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
