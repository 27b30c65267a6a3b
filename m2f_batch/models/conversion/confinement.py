"""A process gives up the network, and memory without end, before it reads a file that nobody vouches for.

It never gets either back, nor do processes that it starts.
"""

import ctypes
import os
import platform
import resource
import socket
import struct
from typing import NoReturn

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
# linux/audit.h; the system calls socket and io_uring_setup, by which connections can be had
_MACHINES = {"x86_64": (0xC000003E, (41, 425)), "aarch64": (0xC00000B7, (198, 425))}
_X32 = 0x40000000  # numbers of x86_64's second ABI lie above it


def cut_network() -> str:
    """Take the network away, and say how, for people. To be called while the process has one thread."""
    has_namespace, has_filter = _has_own_namespace(), _are_sockets_filtered()  # both: files can be sockets, too
    if has_namespace:
        return "a network namespace of its own"
    if has_filter:
        return "sockets blocked by the kernel, since a network namespace was refused"
    _forbid_sockets()
    return "sockets blocked in Python alone, since the kernel refused more"


def bound_memory(size: int) -> None:
    """Allow from now on no more than ``size`` bytes of address space beside what the process has, and no core files."""
    with open("/proc/self/statm") as pages:
        now = int(pages.read().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = now + size if most == resource.RLIM_INFINITY else min(now + size, most)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, wanted))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def bound_seconds(seconds: int) -> None:
    """Have SIGXCPU sent after so many seconds of a core."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))


def _has_own_namespace() -> bool:
    """Enter a network namespace without a way out, as root or as a user, and tell whether that succeeded."""
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    if unshare is None:
        return False
    user, group = os.getuid(), os.getgid()
    if unshare(_CLONE_NEWNET) == 0:
        return True
    if unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as handle:
                handle.write(text)
        except OSError:
            break  # files are still written as the same user; only the names of users are gone
    return True


def _are_sockets_filtered() -> bool:
    """Ask the kernel to refuse this process new sockets (seccomp), and tell whether it does."""
    architecture, calls = _MACHINES.get(platform.machine(), (0, ()))
    if not calls:
        return False
    program = _filter(architecture, calls)
    code = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 4]
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, described, 0, 0) == 0)


def _filter(architecture: int, calls: tuple[int, ...]) -> bytes:
    """Write a program of BPF: what is not of this architecture, and each of ``calls``, is answered with EPERM."""
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    allow, refuse = 0x7FFF0000, 0x00050001
    steps = [(load, 0, 0, 4), (equal, 0, len(calls) + 3, architecture), (load, 0, 0, 0)]
    steps.append((at_least, len(calls) + 1, 0, _X32))
    steps += [(equal, len(calls) - place, 0, call) for place, call in enumerate(calls)]
    steps += [(answer, 0, 0, allow), (answer, 0, 0, refuse)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def _forbid_sockets() -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise PermissionError("this process has no network")

    for name in ("socket", "socketpair", "create_connection", "fromfd"):
        setattr(socket, name, refuse)
