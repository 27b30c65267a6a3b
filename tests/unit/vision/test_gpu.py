"""GPUs and drivers that this torch cannot use are one line, from whichever process loads a model."""

import re

import pytest
import torch
from conftest import DEMO_MODEL, PROJECT

from m2f_batch.errors import RunError
from m2f_batch.vision.device import gpu

CUDA = torch.device("cuda")
# as torch's C++ raises it where cudaGetDeviceCount answers cudaErrorInsufficientDriver
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: "
    "https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver."
)
NEEDED = "torch 2.15.0+cu132 is made for CUDA 13.2, which needs driver 580 or newer and compute capability 7.5 or newer"


@pytest.fixture
def cuda(monkeypatch):
    """Stands for torch.cuda of a node: a function that says what its driver answers."""

    def node(capability=(7, 5), name="Tesla T4", error=None):
        def answer(value):
            def asked(_device=None):
                if error is not None:
                    raise error
                return value

            return asked

        monkeypatch.setattr(torch, "__version__", "2.15.0+cu132")
        monkeypatch.setattr(torch.version, "cuda", "13.2")
        archs = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: archs)
        monkeypatch.setattr(torch.cuda, "get_device_capability", answer(capability))
        monkeypatch.setattr(torch.cuda, "get_device_name", answer(name))
        monkeypatch.setattr(gpu.os, "uname", lambda: type("Node", (), {"nodename": "gpu-7"}))

    return node


def test_a_driver_that_is_too_old_is_one_line(cuda):
    cuda(error=RuntimeError(TOO_OLD))
    with pytest.raises(RunError) as said:
        gpu.check_gpu(CUDA)
    assert str(said.value) == (
        "compute.device: cuda cannot be used on node gpu-7: The NVIDIA driver on your system is too old (found version "
        f"12040); {NEEDED}"
    )


def test_a_driver_that_is_missing_is_one_line(cuda):
    cuda(error=RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"))
    with pytest.raises(RunError) as said:
        gpu.check_gpu(CUDA)
    assert str(said.value) == (
        f"compute.device: cuda cannot be used on node gpu-7: Found no NVIDIA driver on your system; {NEEDED}"
    )


def test_a_gpu_of_before_turing_is_one_line(cuda):
    cuda((7, 0), "Tesla V100-SXM2-16GB")
    with pytest.raises(RunError) as said:
        gpu.check_gpu(CUDA)
    assert str(said.value) == (
        "compute.device: cuda cannot be used on node gpu-7: Tesla V100-SXM2-16GB has compute capability 7.0; " + NEEDED
    )


@pytest.mark.parametrize("capability", [(7, 5), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_gpus_from_turing_on_pass(cuda, capability):
    cuda(capability)
    gpu.check_gpu(CUDA)


def test_what_may_pass_is_left_to_the_next_try(cuda):
    cuda(error=RuntimeError("CUDA error: out of memory"))
    gpu.check_gpu(CUDA)


def test_a_cpu_and_a_torch_of_another_make_are_not_asked(cuda, monkeypatch):
    cuda(error=RuntimeError(TOO_OLD))
    gpu.check_gpu(torch.device("cpu"))
    monkeypatch.setattr(torch.version, "cuda", None)  # ROCm
    gpu.check_gpu(CUDA)


def test_a_replica_holds_it_until_its_first_unit(cuda):
    """Ray Data would start an actor that raises for ever; raised for a unit, it ends the run with exit code 1."""
    from m2f_batch.flow.unit.actor import ActorSettings
    from m2f_batch.flow.workers import GatedActor, Steps
    from m2f_batch.models.source import find_model
    from m2f_batch.vision.device.checked_model import load_checked

    cuda((7, 0), "Tesla V100-SXM2-16GB")

    def load(settings):
        return load_checked(DEMO_MODEL, torch.device(settings.device), task="panoptic", precision="fp32", threads=1)

    settings = ActorSettings(find_model(str(DEMO_MODEL), None), None, "cuda", 1, None)
    actor = GatedActor(settings, None, Steps(load=load, check=lambda _: None))
    with pytest.raises(RunError, match=r"^compute\.device: cuda cannot be used on node gpu-7: Tesla V100"):
        actor(None)


def test_a_worker_of_finetune_ends_the_command_with_it(cuda):
    from m2f_batch.train.workers.ray_train import end_of

    cuda(error=RuntimeError(TOO_OLD))
    with pytest.raises(RunError) as said:
        gpu.check_gpu(CUDA)
    assert end_of(said.value) is said.value  # what ends the command, and is not tried again


def test_documents_name_the_floor_of_the_torch_that_is_locked():
    """The page on getting started, Dockerfile and SIZING; the driver is that of the CUDA version of torch's wheels."""
    oldest = min(int(each.removeprefix("sm_")) for each in torch.cuda.get_arch_list() or ["sm_75"])
    driver = gpu.OLDEST_DRIVER[(torch.version.cuda or "13").partition(".")[0]]
    for file in ("docs/getting-started.md", "infra/Dockerfile", "infra/SIZING.md"):
        text = " ".join((PROJECT / file).read_text().replace("\n# ", " ").split())
        assert re.search(rf"NVIDIA's driver {driver} or newer, compute capability {oldest / 10} or newer", text), file
