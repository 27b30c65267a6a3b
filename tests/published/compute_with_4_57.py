"""Save a full-size model of random weights with transformers 4.57's own classes, and what it computes; no project code.

PYTHON tests/published/compute_with_4_57.py tests/published/NAME OUT
"""

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation


def main(source: Path, out: Path) -> None:
    """OUT becomes a model directory with ``values.st``: pixel values, and logits in float64."""
    torch.manual_seed(0)
    model = Mask2FormerForUniversalSegmentation(Mask2FormerConfig.from_pretrained(source)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:  # so large that queries differ
                parameter.normal_(0, 1.2 / parameter[0].numel() ** 0.5)
            elif "norm" not in name:
                parameter.normal_(0, 0.1)
        model.save_pretrained(out, safe_serialization=True)
        for file in source.glob("*.json"):
            shutil.copy(file, out / file.name)
        values = torch.randn(1, 3, 128, 192, dtype=torch.float64)
        output = model.double()(pixel_values=values)
    logits = {"class": output.class_queries_logits, "masks": output.masks_queries_logits}
    save_file({"pixel_values": values} | {name: each.contiguous() for name, each in logits.items()}, out / "values.st")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
