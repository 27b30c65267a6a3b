"""Write this folder anew with an older transformers, in an environment of its own. It imports nothing of the project.

    python3 -m venv old && old/bin/pip install transformers==4.26.1 torch==2.13.0 torchvision "numpy<2" scipy
    old/bin/python tests/old_checkpoints/write_old.py tests/old_checkpoints
    python3 -m venv new && new/bin/pip install transformers==4.57.6 torch==2.13.0 torchvision scipy timm accelerate
    new/bin/python tests/old_checkpoints/write_old.py tests/old_checkpoints

Written with Python 3.11, transformers 4.26.1 (tokenizers 0.13.3, numpy 1.26.4) and 4.57.6 (numpy 2.3.5, timm 1.0.31,
accelerate 1.15.0), torch 2.13.0, safetensors 0.8.0. What a version writes, and what it computes:

    VERSION-NAME/                       a model directory, as save_pretrained of that version writes it
    VERSION-NAME/expected.safetensors   its own logits of ``pixel_values()``, in float64 where it computes in it
    VERSION-variants.json               directories that share those weights: their other JSON files, and what the
                                        processor of that version makes of ``image(height, width)``
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    AutoImageProcessor,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    ResNetConfig,
    SwinConfig,
)

OLD = transformers.__version__ == "4.26.1"
NAMES = {0: "cat", 1: "dog", 2: "sky"}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
IMAGES = [(48, 80), (90, 60), (16, 400)]
SMALL = {
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 32,
    "dim_feedforward": 32,
}
SMALL |= {"encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 4, "num_queries": 6}


def image(height, width):
    """An RGB image, uint8 [H, W, 3], that follows from its size."""
    y, x, c = np.ogrid[:height, :width, :3]
    return ((x * 7 + y * 13 + c * 61 + (x // 9) * (y // 7) * 29) % 256).astype(np.uint8)


def pixel_values():
    """What the model is given, [1, 3, 64, 96]."""
    return (torch.from_numpy(image(64, 96)).permute(2, 0, 1)[None].double() - 118) / 57


def swin(**changes):
    """Four stages, the second of two blocks, so that windows are shifted."""
    size = {"image_size": 64, "embed_dim": 4, "depths": [1, 2, 1, 1], "num_heads": [1, 1, 2, 4], "window_size": 4}
    return SwinConfig(**(size | {"out_features": STAGES} | changes))


def resnet():
    """Four stages of one basic layer each. 4.26.1 takes any backbone for a Swin, so has none of these."""
    size = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    return ResNetConfig(**size, out_features=STAGES)


def new_model(seed, **config):
    """A model whose weights are large enough that its queries differ."""
    made = Mask2FormerConfig(id2label=NAMES, label2id={name: i for i, name in NAMES.items()}, **(SMALL | config))
    torch.manual_seed(seed)
    model = Mask2FormerForUniversalSegmentation(made).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.4 / parameter[0].numel() ** 0.5)
            elif "norm" not in name:
                parameter.normal_(0, 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model


def logits(directory):
    """What this version computes with a directory: in float64 where it can."""
    model = Mask2FormerForUniversalSegmentation.from_pretrained(directory, torch_dtype=torch.float32).eval()
    with torch.no_grad():
        try:
            output = model.double()(pixel_values=pixel_values())
        except RuntimeError as error:
            print("float32:", error)
            output = model.float()(pixel_values=pixel_values().float())
    return {"class": output.class_queries_logits.contiguous(), "masks": output.masks_queries_logits.contiguous()}


def save(place, model, processor, **options):
    """A directory as this version writes it, with its logits."""
    shutil.rmtree(place, ignore_errors=True)
    model.save_pretrained(place, safe_serialization=True, **options)
    processor.save_pretrained(place)
    expected = logits(place)
    print(place.name, {k: (v.dtype, round(v.std().item(), 3)) for k, v in expected.items()})
    save_file(expected, place / "expected.safetensors")
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    print("  tensors", len(shapes), "bytes", sum(file.stat().st_size for file in place.iterdir()))


def seen(place):
    """What this version's own processor makes of images: canvas [height, width] and sums of its values by channel."""
    processor = AutoImageProcessor.from_pretrained(place, **({} if OLD else {"use_fast": False}))
    found = []
    for height, width in IMAGES:
        values = processor(image(height, width), return_tensors="pt")["pixel_values"][0].double()
        found.append(
            {
                "image": [height, width],
                "canvas": list(values.shape[1:]),
                "mean": values.mean((1, 2)).tolist(),
                "std": values.std((1, 2)).tolist(),
            }
        )
    return type(processor).__name__, found


def variant(root, base, name, config=None, processor=None, scratch=None):
    """A directory of other JSON files on the weights of ``base``, as this version reads it."""
    place = scratch / name
    shutil.copytree(root / base, place)
    files = {}
    for file, changed in (("config.json", config), ("preprocessor_config.json", processor)):
        if changed is not None:
            (place / file).write_text(json.dumps(changed))
            files[file] = changed
    known = logits(place)
    same = all(torch.equal(known[key], value) for key, value in logits(root / base).items())
    kind, images = seen(place)
    assert same, name
    print(" ", name, kind, [each["canvas"] for each in images])
    return {"name": name, "base": base, "files": files, "images": images}


def main(root):
    version = transformers.__version__
    processor = Mask2FormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}, ignore_index=255)
    save(root / f"{version}-swin", new_model(3, backbone_config=swin()), processor)
    if OLD:
        more_of_4_26(root, processor)
    else:
        save(root / f"{version}-resnet", new_model(3, backbone_config=resnet()), processor)
        more_of_4_57(root, processor)
    variants(root, version)


def more_of_4_26(root, processor):
    """Shards, and windows that do not divide the maps, with norms before attention."""
    save(root / "4.26.1-swin-sharded", new_model(4, backbone_config=swin()), processor, max_shard_size="60KB")
    options = {"window_size": 7, "mlp_ratio": 2, "qkv_bias": False}
    model = new_model(5, backbone_config=swin(**options), pre_norm=True)
    save(root / "4.26.1-swin-odd", model, processor)


def more_of_4_57(root, processor):
    """Float16, the state of a Trainer, and backbones that are only named."""
    save(root / "4.57.6-swin-fp16", new_model(6, backbone_config=swin()).half(), processor)
    save(root / "4.57.6-resnet-sharded", new_model(7, backbone_config=resnet()), processor, max_shard_size="60KB")
    timm = {"backbone": "test_efficientnet", "use_timm_backbone": True, "use_pretrained_backbone": False}
    model = new_model(8, **timm, backbone_kwargs={"out_indices": [1, 2, 3, 4]}).half()
    save(root / "4.57.6-timm", model, processor)
    train(root / "4.57.6-trainer", new_model(9, backbone_config=swin()), processor)


def train(place, model, processor):
    """One step of transformers' Trainer, and the checkpoint folder that it leaves."""
    from transformers import Trainer, TrainingArguments

    masks = torch.zeros(2, 64, 96)
    masks[0, :32], masks[1, 32:] = 1, 1
    row = {"pixel_values": pixel_values()[0].float(), "mask_labels": masks, "class_labels": torch.tensor([0, 2])}

    def collate(rows):
        keep = {key: [each[key] for each in rows] for key in ("mask_labels", "class_labels")}
        return keep | {"pixel_values": torch.stack([each["pixel_values"] for each in rows])}

    scratch = place.parent / "trainer-scratch"
    arguments = TrainingArguments(
        str(scratch), max_steps=1, save_steps=1, optim="sgd", use_cpu=True, report_to=[], remove_unused_columns=False
    )
    trainer = Trainer(model, arguments, train_dataset=[row] * 8, data_collator=collate, processing_class=processor)
    trainer.train()
    shutil.rmtree(place, ignore_errors=True)
    shutil.move(scratch / "checkpoint-1", place)
    shutil.rmtree(scratch)
    save_file(logits(place), place / "expected.safetensors")
    print(place.name, sorted(file.name for file in place.iterdir()))


def variants(root, version):
    """Every old form of config and processor on the weights of this version."""
    scratch = root / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    found = []
    for kind in ("swin",) if OLD else ("swin", "resnet"):
        base = f"{version}-{kind}"
        config = json.loads((root / base / "config.json").read_text())
        settings = json.loads((root / base / "preprocessor_config.json").read_text())
        for name, change in processor_forms(settings).items() if kind == "swin" else ():
            found.append(variant(root, base, f"{base}: {name}", processor=change, scratch=scratch))
        for name, change in config_forms(config, kind).items():
            found.append(variant(root, base, f"{base}: {name}", config=change, scratch=scratch))
    shutil.rmtree(scratch)
    (root / f"{version}-variants.json").write_text("[" + ",\n".join(json.dumps(each) for each in found) + "]\n")


def processor_forms(settings):
    """preprocessor_config.json as versions and authors wrote it."""
    bare = {key: value for key, value in settings.items() if key not in ("size", "image_processor_type")}
    bare = {key: value for key, value in bare.items() if key not in ("_max_size", "max_size")}
    now = {"image_processor_type": "Mask2FormerImageProcessor"}
    old = {key: value for key, value in bare.items() if key not in ("do_rescale", "rescale_factor", "size_divisor")}
    edges = {"size": {"shortest_edge": 64, "longest_edge": 128}}
    forms = {
        "as it is": settings,
        "size is a number with max_size": now | bare | {"size": 64, "max_size": 128},
        "size is a number with _max_size": now | bare | {"size": 64, "_max_size": 128},
        "size is a number alone": now | bare | {"size": 64},
        "max_size alone": now | bare | {"max_size": 900},
        "a square": now | bare | {"size": {"height": 64, "width": 64}},
        "a square with _max_size": now | bare | {"size": {"height": 64, "width": 96}, "_max_size": 1333},
        "reduce_labels": now | bare | edges | {"reduce_labels": True, "ignore_index": 255},
        "do_reduce_labels": now | bare | edges | {"do_reduce_labels": True, "ignore_index": 255},
        "MaskFormerImageProcessor": bare | edges | {"image_processor_type": "MaskFormerImageProcessor"},
        "feature_extractor_type alone": bare | edges | {"feature_extractor_type": "MaskFormerFeatureExtractor"},
        "feature_extractor_type and the other": now
        | bare
        | edges
        | {"feature_extractor_type": "MaskFormerFeatureExtractor"},
        "a feature extractor before rescaling": old
        | {"feature_extractor_type": "MaskFormerFeatureExtractor", "size": 64, "max_size": 128},
        "neither rescaled nor normalized": now | bare | edges | {"do_rescale": False, "do_normalize": False},
        "not resized": now | bare | edges | {"do_resize": False},
    }
    return forms


def config_forms(config, kind):
    """config.json with what older versions wrote, or what nobody has to say."""
    backbone = config["backbone_config"]
    legacy = SwinConfig().to_dict() | {"_name_or_path": "", "torch_dtype": "float32", "transformers_version": "4.25.0"}
    every = {
        key: value for key, value in legacy.items() if key not in backbone and key not in ("model_type", "hidden_size")
    }
    every = {key: value for key, value in every.items() if key not in ("out_indices", "image_size", "depths")}
    forms = {
        "every inherited key": config
        | {"backbone_config": every | backbone, "enforce_input_proj": False}
        | {"_commit_hash": None, "torch_dtype": "float32", "output_attentions": False, "use_bfloat16": False},
        "whole numbers": config
        | {"class_weight": 2, "mask_weight": 5, "dice_weight": 5, "oversample_ratio": 3}
        | {"init_xavier_std": 1, "dropout": 0},
        "without its defaults": {key: value for key, value in config.items() if key not in ("init_std", "pre_norm")},
    }
    if kind == "swin":
        forms["path_norm"] = config | {"backbone_config": backbone | {"path_norm": True, "num_layers": 4}}
        forms["whole numbers in the backbone"] = config | {
            "backbone_config": backbone | {"drop_path_rate": 0, "mlp_ratio": 4}
        }
    if not OLD:
        forms["backbone is null"] = config | {"backbone": None, "use_timm_backbone": False, "backbone_kwargs": None}
    return forms


if __name__ == "__main__":
    main(Path(sys.argv[1]))
