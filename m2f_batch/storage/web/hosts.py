"""Connects to hosts of the web, only at addresses that were checked, so that no name leads into a private network.

Whoever owns a name can let it lead to any address, and to another one a second later. So a name is resolved here, what
is no public address is left out unless an allow-list names the address itself, and the connection goes to that address.
Proxies of the environment are not used, because nobody could check what they connect to.
"""

import ipaddress
import socket
import ssl
import threading
from functools import cache
from typing import NamedTuple

import urllib3

from m2f_batch import backends
from m2f_batch.errors import TransientError
from m2f_batch.storage import allow, uris

CONNECT_SECONDS = 10.0
READ_SECONDS = 20.0  # without a byte
PER_ADDRESS = 16  # connections at a time
_LOCK = threading.Lock()

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class _Peer(NamedTuple):
    scheme: str
    host: str
    address: str
    port: int


def pools_of(uri: str) -> list[urllib3.HTTPConnectionPool]:
    """Returns connections to the addresses of a URL's host, in the order in which they are to be tried.

    Raises Astray where none of them may be asked, TransientError where the name is not resolved.
    """
    place = uris.parse(uri)
    host, port = allow.host_of(place.authority)
    host = host if host.isascii() else host.encode("idna").decode()
    port = port or backends.port_of(place.scheme)
    found = _addresses(uri, host, port)
    asked = [address for address in found if is_public(address) or allow.names_address(host, address)]
    if not asked:
        raise allow.Astray(
            f"{_shown(uri)}: {host} leads to no public address; others are asked only where the allow-list names them: "
            "http://ADDRESS/"
        )
    with _LOCK:
        return [_pool(_Peer(place.scheme, host, address, port)) for address in asked]


def is_public(address: str) -> bool:
    """Tells whether anybody on the internet could ask an address, also where it stands for an IPv4 address.

    >>> [is_public(a) for a in ("8.8.8.8", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1")]
    [True, False, False, False, False, False]
    """
    return all(each.is_global and not each.is_multicast for each in _meanings(ipaddress.ip_address(address)))


def _meanings(address: Address) -> list[Address]:
    """Returns the address, or those that it is a form of."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    inner = [address.sixtofour, *(address.teredo or ())]
    if address in ipaddress.ip_network("64:ff9b::/96"):
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [address, *(each for each in inner if each is not None)]


def _addresses(uri: str, host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise TransientError(f"{_shown(uri)}: the name of the host is not resolved") from error
    return [*dict.fromkeys(str(info[4][0]).partition("%")[0] for info in found)]


def _shown(uri: str) -> str:
    return uris.shown(uris.without_secrets(uri))


@cache
def _pool(peer: _Peer) -> urllib3.HTTPConnectionPool:
    timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
    if peer.scheme == "http":
        return urllib3.HTTPConnectionPool(peer.address, peer.port, timeout=timeout, maxsize=PER_ADDRESS, block=True)
    return urllib3.HTTPSConnectionPool(
        peer.address,
        peer.port,
        timeout=timeout,
        maxsize=PER_ADDRESS,
        block=True,
        ssl_context=ssl.create_default_context(),
        server_hostname=peer.host,  # whose certificate it must be
    )
