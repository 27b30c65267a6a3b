"""Model directories for the parts that run a model: Swin-T with random weights."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor, SwinConfig
from transformers.utils.logging import disable_progress_bar

from benchmarks.lib.photos import photographs
from m2f_batch.vision.decode.image import decode

LABELS, CALIBRATION, KEPT = 80, 8, 12
SWIN_T = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
STAGES = ["stage1", "stage2", "stage3", "stage4"]


@contextmanager
def random_model(size: dict[str, int]) -> Iterator[Path]:
    """A Swin-T Mask2Former with a processor of this size, gone afterwards.

    ``Mask2FormerConfig()`` alone is a Swin-S. Plain random weights find nothing, so some queries are made to.
    """
    disable_progress_bar()
    torch.manual_seed(2)
    names = {i: f"thing {i}" for i in range(LABELS)}
    config = Mask2FormerConfig(
        backbone_config=SwinConfig(**SWIN_T, drop_path_rate=0.3, out_features=STAGES),
        id2label=names,
        label2id={name: i for i, name in names.items()},
        label_ids_to_fuse=[5, 6],
    )
    model = Mask2FormerForUniversalSegmentation(config).eval()
    _make_queries_differ(model)
    with tempfile.TemporaryDirectory(prefix="m2f-bench-") as folder:
        model.save_pretrained(folder)
        Mask2FormerImageProcessor(size=size).save_pretrained(folder)
        yield Path(folder)


@torch.no_grad()
def _make_queries_differ(model: Any) -> None:
    """Damp the attention, because at random weights it makes all queries of an image alike."""
    for layer in model.model.transformer_module.decoder.layers:
        for part in (layer.cross_attn.out_proj, layer.self_attn.out_proj, layer.fc2):
            part.weight.mul_(0.1)
    processor, states = Mask2FormerImageProcessor(size={"height": 256, "width": 256}), []
    for data in photographs(CALIBRATION):
        values = processor(Image.fromarray(decode(data)), return_tensors="pt")["pixel_values"]
        states.append(model(pixel_values=values, output_hidden_states=True).transformer_decoder_last_hidden_state[0])
    _teach_classes(model.class_predictor, torch.stack(states))


def _teach_classes(head: torch.nn.Linear, states: torch.Tensor) -> None:
    """Least squares from query states [N, Q, D]: the first queries are things, the others no object, in any image."""
    images, queries, width = states.shape
    wanted = torch.zeros(queries, head.out_features)
    wanted[:, -1] = 8.0
    for query in range(KEPT):
        wanted[query, query % LABELS], wanted[query, -1] = 8.0, 0.0
    inputs = torch.cat([states, torch.ones(images, queries, 1)], -1).flatten(0, 1).double()
    target = wanted.repeat(images, 1).double()
    normal = inputs.T @ inputs + 1e-3 * torch.eye(width + 1)
    solution = torch.linalg.solve(normal, inputs.T @ target).float()
    head.weight.copy_(solution[:-1].T)
    head.bias.copy_(solution[-1])


def eager(directory: Path, device: Any) -> Any:
    """The model as ``transformers`` loads it."""
    return Mask2FormerForUniversalSegmentation.from_pretrained(directory, local_files_only=True).eval().to(device)
