"""Models for tests: random weights whose heads are scaled until they find something, and one that lacks a tensor."""

import shutil
from pathlib import Path

import torch
from conftest import DEMO_MODEL
from safetensors.numpy import load_file, save_file
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor

from m2f_batch.demo.scenes import draw_scene
from m2f_batch.models.families.mask2former import FAMILY
from m2f_batch.models.loading import OriginalPredictor

LABELS = 80
# that of Mask2FormerConfig but for its depths, which are [2, 2, 18, 2] there
BACKBONE = {
    "model_type": "swin",
    "image_size": 224,
    "embed_dim": 96,
    "depths": [1, 1, 2, 1],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "drop_path_rate": 0.3,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
IMAGES = [draw_scene(7).image[:150], draw_scene(1).image[:, :120], draw_scene(2).image[:200, :200]]  # three canvases


def predictor(model: Mask2FormerForUniversalSegmentation) -> OriginalPredictor:
    """A Mask2Former of transformers, as it is run."""
    return OriginalPredictor(FAMILY, model)


def save_random_model(directory: Path) -> Path:
    """A Mask2Former of default widths (Swin backbone, 100 queries), few layers and random weights, its heads scaled.

    Plain random weights find nothing: all queries look alike, class scores are near 1 / (C + 1) and masks cover all or
    nothing. So both heads are made to look at what tells the queries of ``IMAGES`` apart.
    """
    torch.manual_seed(3)
    names = {i: f"thing {i}" for i in range(LABELS)}
    config = Mask2FormerConfig(
        backbone_config=BACKBONE,
        encoder_layers=2,
        decoder_layers=4,
        id2label=names,
        label2id={name: i for i, name in names.items()},
        label_ids_to_fuse=[5, 6],
    )
    model = Mask2FormerForUniversalSegmentation(config).eval()
    processor = Mask2FormerImageProcessor(size={"shortest_edge": 192, "longest_edge": 320})
    seen: list[torch.Tensor] = []
    last = model.model.transformer_module.decoder.mask_predictor.mask_embedder.get_submodule("2.0")
    hook = last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    queries, embeddings = [], []
    with torch.no_grad():
        for image in IMAGES:
            values = processor(image, return_tensors="pt")["pixel_values"]
            queries.append(
                model(pixel_values=values, output_hidden_states=True).transformer_decoder_last_hidden_state[0]
            )
            embeddings.append(seen[-1].reshape(-1, seen[-1].shape[-1]))
        hook.remove()
        _tell_apart(model.class_predictor, queries, spread=8.0)
        _tell_apart(last, embeddings, spread=15.0)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def _tell_apart(head: torch.nn.Linear, inputs: list[torch.Tensor], spread: float, directions: int = 16) -> None:
    """Make a head blind to what all queries [Q, D] of an image share, open to the main ``directions`` of the rest."""
    shared = torch.linalg.qr(torch.stack([queries.mean(0) for queries in inputs]).T).Q
    own = torch.cat([queries - queries @ shared @ shared.T for queries in inputs])
    _, values, axes = torch.linalg.svd(own, full_matrices=False)
    mix = torch.randn(head.out_features, directions) / directions**0.5
    head.weight.copy_(spread * mix @ (axes[:directions] * (len(own) ** 0.5 / values[:directions])[:, None]))
    head.bias.zero_()


def save_incomplete_model(directory: Path) -> Path:
    """The demo model without one of its tensors, which does not load."""
    shutil.copytree(DEMO_MODEL, directory)
    tensors = load_file(directory / "model.safetensors")
    tensors.pop(next(name for name in tensors if "mask_embedder" in name))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
