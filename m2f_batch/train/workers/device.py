"""What a device cannot do, said before anything is written."""

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.errors import UsageError


def check_device(config: FinetuneConfig, device: str) -> None:
    """Raises UsageError where a device ("cpu", "cuda") cannot do what ``config`` asks."""
    if config.train.deterministic and device == "cuda":
        raise UsageError(
            "true is not to be had on CUDA, where torch has no deterministic gradients of grid_sample "
            "and bilinear resizing; allowed with compute.device=cpu",
            field="train.deterministic",
        )
