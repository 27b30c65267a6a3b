"""Says what the terms of some licenses of weights allow, for the plan before a run.

Sources: the licenses' own texts. This is no legal advice, and a model card may say more.
"""

from collections.abc import Iterator, Mapping

TERMS: Mapping[str, str] = {
    "nvidia-source-code-license": (
        "NVIDIA's license of SegFormer lets others than NVIDIA use these weights for research or evaluation only, not "
        "commercially (https://github.com/NVlabs/SegFormer/blob/master/LICENSE)"
    ),
    "dinov3-license": (
        "the DINOv3 license binds these weights, which were made of DINOv3's: it must go with every copy, and forbids "
        "military and some other uses (https://ai.meta.com/resources/models-and-libraries/dinov3-license)"
    ),
    "apple-amlr": (
        "Apple's license of machine learning research models lets others than Apple use these weights for research "
        "only, not commercially (https://huggingface.co/apple/deeplabv3-mobilevit-small/blob/main/LICENSE)"
    ),
}


def terms_of(stated: str) -> Iterator[str]:
    """Yield the terms that a user should know of licenses as ``Checkpoint.license`` gives them."""
    for name in stated.split(", "):
        if name in TERMS:
            yield TERMS[name]
