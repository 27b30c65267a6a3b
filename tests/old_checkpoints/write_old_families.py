"""Write the directories of MaskFormer and OneFormer anew with an older transformers. It imports nothing of the project.

    python3 -m venv new && new/bin/pip install transformers==4.57.6 torch==2.13.0 torchvision scipy
    new/bin/python tests/old_checkpoints/write_old_families.py tests/old_checkpoints

As in ``write_old.py``, FAMILY-VERSION/ is a model directory, and expected.safetensors its logits of ``pixel_values()``.
"""

import shutil
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    DetrConfig,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    OneFormerConfig,
    OneFormerForUniversalSegmentation,
    SwinConfig,
)
from write_old import NAMES, STAGES, pixel_values

PANOPTIC = [49406, 518, 10549, 533, 1072, 24755, 49407]
LABELS = {"id2label": NAMES, "label2id": {name: i for i, name in NAMES.items()}}


def swin():
    """Four stages, the second of two blocks, so that windows are shifted."""
    size = {"image_size": 64, "embed_dim": 4, "depths": [1, 2, 1, 1], "num_heads": [1, 1, 2, 4], "window_size": 4}
    return SwinConfig(**size, out_features=STAGES)


def maskformer():
    """A model with an auxiliary loss, as fine-tuning examples have it."""
    decoder = DetrConfig(
        d_model=32,
        num_queries=6,
        decoder_layers=2,
        decoder_ffn_dim=32,
        decoder_attention_heads=4,
        encoder_attention_heads=4,
    )
    small = {"fpn_feature_size": 32, "mask_feature_size": 32, "use_auxiliary_loss": True}
    return MaskFormerForInstanceSegmentation(
        MaskFormerConfig(backbone_config=swin(), decoder_config=decoder, **small, **LABELS)
    )


def oneformer():
    """A model without the text encoder, which only training has."""
    small = {"conv_dim": 32, "mask_dim": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32, "dim_feedforward": 32}
    small |= {"num_attention_heads": 4, "encoder_layers": 1, "decoder_layers": 3, "query_dec_layers": 1}
    config = OneFormerConfig(backbone_config=swin(), num_queries=6, **small, **LABELS)
    return OneFormerForUniversalSegmentation(config)


def drawn(model, seed):
    """The model with weights that are large enough for its queries to differ."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.4 / parameter[0].numel() ** 0.5)
            elif "norm" not in name and parameter.dim():
                parameter.normal_(0, 0.2)
            if "task_mlp.layers.0" in name:
                parameter.mul_(1e-4)  # of ids up to 49407
    return model.eval()


def save(place, model, processor, **given):
    """A directory as this version writes it, with its logits in float64."""
    shutil.rmtree(place, ignore_errors=True)
    model.save_pretrained(place, safe_serialization=True)
    processor.save_pretrained(place)
    with torch.no_grad():
        output = model.double()(pixel_values=pixel_values(), output_hidden_states=True, **given)
    expected = {"class": output.class_queries_logits, "masks": output.masks_queries_logits}
    save_file({name: value.contiguous() for name, value in expected.items()}, place / "expected.safetensors")
    print(place.name, {name: round(value.std().item(), 3) for name, value in expected.items()})


def main(root):
    """Write both."""
    version = transformers.__version__
    processor = MaskFormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    save(root / f"maskformer-{version}", drawn(maskformer(), 3), processor)
    task = torch.zeros(1, 77, dtype=torch.float64)
    task[0, : len(PANOPTIC)] = torch.tensor(PANOPTIC)
    save(root / f"oneformer-{version}", drawn(oneformer(), 4), processor, task_inputs=task)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
