"""Checks that the GPU and the driver of a node can run this torch, before a model is loaded there."""

import os
import warnings

import torch

from m2f_batch.errors import RunError
from m2f_batch.models.from_tensors import first_line

# the oldest driver of Linux for any toolkit of a CUDA version: "minor version compatibility" in NVIDIA's release notes
OLDEST_DRIVER = {"12": 525, "13": 580}


def check_gpu(device: torch.device) -> None:
    """Raise RunError, one line, where ``device`` is a GPU that no other try will make this torch run on.

    That is a driver that is missing or too old, and a GPU that is older than all that torch was compiled for. Whatever
    else CUDA may say is left to whoever loads the model: another try, or another node, may do better.
    """
    if device.type != "cuda" or torch.version.cuda is None:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own of a GPU that is too old take ten lines
            capability = torch.cuda.get_device_capability(device)
            name = torch.cuda.get_device_name(device)
    except RuntimeError as error:
        if "NVIDIA driver" not in str(error):  # torch says so of one that is missing or too old
            return
        raise RunError(f"{_place()} {first_line(error).split('. ')[0]}; {_needed()}") from None
    if capability < _oldest():
        raise RunError(f"{_place()} {name} has compute capability {capability[0]}.{capability[1]}; {_needed()}")


def _place() -> str:
    return f"compute.device: cuda cannot be used on node {os.uname().nodename}:"


def _needed() -> str:
    version = str(torch.version.cuda)
    driver = OLDEST_DRIVER.get(version.partition(".")[0])
    driver_needed = "a driver that knows it" if driver is None else f"driver {driver} or newer"
    return (
        f"torch {torch.__version__} is made for CUDA {version}, which needs {driver_needed} and compute capability "
        f"{'.'.join(map(str, _oldest()))} or newer"
    )


def _oldest() -> tuple[int, int]:
    """The least compute capability of the kernels in torch."""
    known = [name.removeprefix("sm_").rstrip("af") for name in torch.cuda.get_arch_list() if name.startswith("sm_")]
    return min(((int(each[:-1]), int(each[-1])) for each in known), default=(0, 0))
