"""Tells the license of a model's weights, and what the terms of some allow, for the plan before a run.

Sources of the terms: the licenses' own texts. This is no legal advice, and a model card may say more.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from m2f_batch.config.yaml_values import parse_yaml

DINOV3 = "dinov3-license"
TERMS: Mapping[str, str] = {
    "nvidia-source-code-license": (
        "NVIDIA's license of SegFormer lets others than NVIDIA use these weights for research or evaluation only, not "
        "commercially (https://github.com/NVlabs/SegFormer/blob/master/LICENSE)"
    ),
    DINOV3: (
        "the DINOv3 license binds these weights, which were made of DINOv3's: it must go with every copy, and forbids "
        "military and some other uses (https://ai.meta.com/resources/models-and-libraries/dinov3-license)"
    ),
    "apple-amlr": (
        "Apple's license of machine learning research models lets others than Apple use these weights for research "
        "only, not commercially (https://huggingface.co/apple/deeplabv3-mobilevit-small/blob/main/LICENSE)"
    ),
}


def license_of(
    card: Path, names: Sequence[str], config: Mapping[str, Any], published: Mapping[str, str], base: str | None
) -> str:
    """Return the license of the weights that the model card states, else that of published ones by names of the model.

    ``base``, that of what all weights of a family were made from, is added, and that of DINOv3 where the backbone is
    one. ``published`` are licenses by the beginning of names, whose case the hub does not tell apart.
    ``config`` is config.json, empty for a backbone alone.
    """
    stated = _front_matter(card).get("license")
    text = ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated or "unknown")
    if text in ("other", "unknown"):
        pairs = ((name.casefold(), prefix.casefold(), found) for name in names for prefix, found in published.items())
        text = next((found for name, prefix, found in pairs if name.startswith(prefix)), text)
    licenses = text.lower().split(", ")
    for more in (base, DINOV3 if _has_dinov3(config) else None):
        licenses += [more] if more is not None and more not in licenses else []
    return ", ".join(licenses)


def _front_matter(card: Path) -> dict[str, Any]:
    """Read the YAML between the first two ``---`` lines of a model card, or nothing."""
    try:
        text = card.read_text(encoding="utf-8-sig", errors="replace")
        match = re.match(r"---[ \t]*\n(.*?)^---[ \t]*$", text, re.DOTALL | re.MULTILINE)
        tree = parse_yaml(match[1]) if match else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}  # a card is for people: no card, or one that is not well-formed, says nothing
    return tree if isinstance(tree, dict) else {}


def _has_dinov3(config: Mapping[str, Any]) -> bool:
    """Tell whether the model or its backbone is called a DINOv3."""
    backbone = config.get("backbone_config")
    parts = [config, backbone if isinstance(backbone, dict) else {}]
    called = (str(part.get(key)) for part in parts for key in ("backbone", "model_type", "_name_or_path"))
    return any("dinov3" in name.casefold() for name in called)


def terms_of(stated: str) -> Iterator[str]:
    """Yield the terms that a user should know of licenses as ``Checkpoint.license`` gives them."""
    for name in stated.split(", "):
        if name in TERMS:
            yield TERMS[name]
